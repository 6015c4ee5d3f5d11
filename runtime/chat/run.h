/* A chat template that runs: what its statements and its expressions share. */
#ifndef MB_CHAT_RUN_H
#define MB_CHAT_RUN_H

#include "chat/program.h"

typedef struct {
  uint32_t name;
  chat_value value;
} chat_binding;

typedef struct {
  const chat_program *program;
  chat_memory memory;
  chat_value messages;
  bool add_generation_prompt;
  const mb_chat_options *options;
  mb_buffer *out; /* what the template writes goes here */

  /* Names, the innermost scope last. A macro sees its own and the outermost scope's. */
  chat_binding *bindings;
  size_t count, capacity;
  size_t scope;          /* where the innermost scope begins */
  size_t frame;          /* where the macro's names begin; 0: no macro runs */
  size_t outermost;      /* how many bindings the outermost scope has, one without a name at least */
  const chat_loop *loop; /* the innermost one, NULL: none */
  enum { CHAT_GO_ON, CHAT_BREAK, CHAT_CONTINUE } flow;
} chat_run;

static inline uint32_t chat_child(const chat_run *run, const mb_chat_node *node, uint32_t position) {
  return run->program->edges[node->first + position];
}

static inline chat_text chat_program_text(const chat_run *run, uint32_t index) {
  const mb_token_span span = run->program->texts[index];
  return (chat_text){run->program->bytes + span.offset, span.bytes};
}

/* All return false when the run has failed. */
bool chat_bind(chat_run *run, uint32_t name, const chat_value *value);
bool chat_execute(chat_run *run, uint32_t node);
bool chat_evaluate(chat_run *run, uint32_t node, chat_value *out);
/* Runs a body in a scope of its own, and catches what it writes. */
bool chat_capture(chat_run *run, uint32_t body, chat_value *out);

/* access.c: what is inside of values. */
bool chat_attribute(chat_run *run, const mb_chat_node *node, chat_value *out);
bool chat_item(chat_run *run, const mb_chat_node *node, chat_value *out);
bool chat_slice(chat_run *run, const mb_chat_node *node, chat_value *out);

/* operations.c: methods, filters and tests. */
bool chat_method_call(chat_run *run, const mb_chat_node *node, chat_value *out);
bool chat_filter(chat_run *run, const mb_chat_node *node, chat_value *out);
bool chat_test(chat_run *run, const mb_chat_node *node, chat_value *out);
bool chat_select(chat_run *run, const mb_chat_node *node, chat_value *out);

#endif

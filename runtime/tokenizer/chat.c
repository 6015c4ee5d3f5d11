/* A conversation by the chat template that stands in tokenizer.bin: a program, or in older files the pieces that stand
 * between the contents. */
#include "base/error.h"
#include "base/option_struct.h"
#include "chat/program.h"
#include "chat/text.h"
#include "tokenizer/tokenizer.h"

static const char *const names[] = {"system", "user", "assistant"};

bool mb_tokenizer_has_chat(const mb_tokenizer *tokenizer) {
  return tokenizer->chat != NULL || tokenizer->chat_program.header != NULL;
}

bool mb_tokenizer_has_thinking(const mb_tokenizer *tokenizer) {
  const mb_chat_program *program = tokenizer->chat_program.header;
  return program && program->flags & MB_CHAT_HAS_THINKING;
}

/* The text between two places of a conversation, MB_TOKEN_CHAT_PLACES. */
static mb_status between(const mb_tokenizer *tokenizer, unsigned from, unsigned to, mb_buffer *out) {
  enum { END = MB_TOKEN_CHAT_PLACES - 1 };
  const mb_token_span span = tokenizer->chat->between[from][to];
  if (span.offset == MB_TOKEN_CHAT_ABSENT) {
    if (to == MB_ROLE_SYSTEM && from == END)
      return mb_fail(MB_ERROR_ARGUMENT, "this model's chat template has no system message: leave it out");
    if (to == END)
      return mb_fail(MB_ERROR_ARGUMENT, "this model answers a user message, not a %s message", names[from]);
    if (from == END)
      return mb_fail(MB_ERROR_ARGUMENT, "this model's conversations do not begin with a %s message", names[to]);
    return mb_fail(MB_ERROR_ARGUMENT, "this model's chat template has no %s message after a %s message", names[to],
                   names[from]);
  }
  if (mb_buffer_append(out, tokenizer->chat_bytes + span.offset, span.bytes)) return MB_OK;
  return mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
}

static mb_status render_pieces(const mb_tokenizer *tokenizer, const mb_chat_message *messages, size_t count,
                               mb_buffer *out) {
  unsigned place = MB_TOKEN_CHAT_PLACES - 1;
  mb_status status = MB_OK;
  for (size_t i = 0; i < count && status == MB_OK; i++) {
    const mb_chat_message *m = &messages[i];
    if ((unsigned)m->role > MB_ROLE_ASSISTANT) return mb_fail(MB_ERROR_ARGUMENT, "no such role: %d", (int)m->role);
    chat_text content = {(const uint8_t *)m->content, m->bytes};
    chat_memory unused = {.work_left = UINT64_MAX};
    /* An answer that is to go on ends as it ends. */
    const bool goes_on = i + 1 == count && m->role == MB_ROLE_ASSISTANT;
    if (tokenizer->chat->trims & 1u << m->role && !goes_on) chat_strip(&unused, &content, NULL, true, true);
    status = between(tokenizer, place, m->role, out);
    if (status == MB_OK && !mb_buffer_append(out, content.at, content.bytes))
      status = mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
    place = m->role;
  }
  if (status != MB_OK || place == MB_ROLE_ASSISTANT) return status;
  return between(tokenizer, place, MB_TOKEN_CHAT_PLACES - 1, out);
}

static mb_status hand_out(mb_status status, mb_buffer *made, char **text, size_t *bytes) {
  if (status != MB_OK) {
    mb_buffer_free(made);
    return status;
  }
  *text = (char *)made->data;
  *bytes = made->size;
  return MB_OK;
}

/* *own: the caller's options. */
static mb_status check_request(const mb_chat_program *program, size_t count, const mb_chat_options *options,
                               mb_chat_options *own) {
  const mb_status status = mb_options_take("mb_chat_options", options, own, sizeof *own);
  if (status != MB_OK) return status;
  if (count == 0) return mb_fail(MB_ERROR_ARGUMENT, "a conversation needs a message before it can be answered");
  if (own->thinking != MB_THINKING_DEFAULT && !(program && program->flags & MB_CHAT_HAS_THINKING))
    return mb_fail(MB_ERROR_ARGUMENT,
                   "this bundle's chat template cannot switch thinking on and off: leave thinking out");
  return MB_OK;
}

mb_status mb_chat_render(const mb_tokenizer *tokenizer, const mb_chat_message *messages, size_t count,
                         const mb_chat_options *options, char **text, size_t *bytes) {
  mb_buffer made = {0};
  *text = NULL;
  *bytes = 0;
  if (!mb_tokenizer_has_chat(tokenizer))
    return mb_fail(MB_ERROR_ARGUMENT, "this bundle has no chat template: give it plain text to continue");
  mb_chat_options own;
  mb_status status = check_request(tokenizer->chat_program.header, count, options, &own);
  if (status == MB_OK) {
    status = tokenizer->chat ? render_pieces(tokenizer, messages, count, &made)
                             : chat_program_run(&tokenizer->chat_program, messages, count, &own, &made);
  }
  return hand_out(status, &made, text, bytes);
}

mb_status mb_chat_render_program(const void *section, size_t section_bytes, const void *texts, size_t texts_bytes,
                                 const mb_chat_message *messages, size_t count, const mb_chat_options *options,
                                 char **text, size_t *bytes) {
  mb_buffer made = {0};
  chat_program program;
  *text = NULL;
  *bytes = 0;
  mb_status status = chat_program_open(section, section_bytes, texts, texts_bytes, &program);
  mb_chat_options own;
  if (status == MB_OK) status = check_request(program.header, count, options, &own);
  if (status == MB_OK) status = chat_program_run(&program, messages, count, &own, &made);
  return hand_out(status, &made, text, bytes);
}

void mb_chat_free(char *text) { free(text); }

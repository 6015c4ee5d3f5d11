/* What mobile-run says: text for people, or one JSON object per line for programs. */
#ifndef MB_RUNNER_EVENTS_H
#define MB_RUNNER_EVENTS_H

#include <stddef.h>

#include "runner/decoder.h"
#include "runner/process_memory.h"

typedef struct {
  const char *bundle;
  const char *kernels;
  uint32_t threads;
  uint32_t context;
  double seconds;   /* from the start of the process until a token could be fed */
  mb_memory memory; /* of weights and session */
  uint64_t tokenizer_bytes;
  uint64_t form_bytes; /* that answers in a given form take besides, at most */
} load_event;

typedef struct {
  uint32_t tokens;
  uint32_t kept_tokens;      /* of them, which the decoder held already */
  uint32_t dropped_messages; /* the oldest of a conversation that would not fit the context */
  double seconds;
} prompt_event;

typedef struct {
  uint32_t reached;   /* the most tokens that were held, where some were removed since; not told */
  const char *reason; /* "eos", "stop", "length", "context" or "cancelled" */
  uint32_t prompt_tokens;
  uint32_t kept_tokens; /* as in prompt_event */
  uint32_t tokens;
  double prompt_seconds;
  double seconds;             /* of decoding, without the prompt */
  double first_token_seconds; /* from the start of the process, or when serving of the request */
  process_memory memory;
  uint64_t predicted_peak_bytes; /* for as many tokens as were really fed */
  bool lookup;                   /* tokens were looked up in the text */
  uint32_t guessed, right;       /* of them, and those that were right */
  uint64_t state_bytes;          /* of the file that saving would write now; 0: this runtime has none */
} done_event;

typedef struct {
  const char *action; /* "saved" or "resumed" */
  uint32_t tokens;
  uint64_t bytes; /* of the file */
  double seconds;
} state_event;

typedef struct {
  const char *test; /* "pp512", "tg128" */
  uint32_t threads;
  const double *tokens_per_second; /* [repetitions] */
  uint32_t repetitions;
  double load_seconds;
  double first_token_seconds;
  process_memory memory;
} bench_event;

typedef struct {
  const char *bundle;
  mb_install_result result;
  double seconds;
  uint64_t peak_anonymous_bytes; /* anonymous and swapped, the highest seen while it ran */
  uint64_t peak_rss_bytes;
} install_event;

/* done of total decoded bytes; what: the tensor. */
void emit_install_progress(bool json, uint64_t done, uint64_t total, const char *what);
void emit_installed(bool json, const install_event *event);
void emit_load(bool json, const load_event *event);
/* done of total tokens of the prompt are in the KV cache. */
void emit_reading(bool json, uint32_t done, uint32_t total);
void emit_prompt(bool json, const prompt_event *event);
/* text: UTF-8, may be empty while a character is incomplete. */
void emit_token(bool json, int32_t id, const char *text, size_t bytes);
void emit_done(bool json, const done_event *event);
void emit_state(bool json, const state_event *event);
void emit_bench(bool json, const bench_event *event);
void emit_verified(bool json, const char *bundle);
void emit_error(bool json, mb_status status, const char *message);

#endif

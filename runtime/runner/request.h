/* A request to `mobile-run serve`: one JSON object. */
#ifndef MB_RUNNER_REQUEST_H
#define MB_RUNNER_REQUEST_H

#include "runner/form.h"
#include "runner/prompt.h"
#include "runner/stop.h"

typedef enum { REQUEST_ANSWER, REQUEST_SAVE, REQUEST_RESUME } request_kind;

typedef struct {
  request_kind kind;
  char *path;             /* of the state to save or to resume; NULL for an answer */
  runner_options options; /* the command line's, with what the request sets */
  char *prompt;           /* NULL where there are messages */
  size_t prompt_bytes;
  prompt_message *messages;
  size_t message_count;
  stop_strings stops;
  form form;
  bool move; /* of a full context: keys are moved instead of the rest being read again */
} request;

/* Reads {"prompt": TEXT} or {"messages": [{"role": ..., "content": TEXT}, ...]}, with or without "max_new_tokens",
 * "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "repetition_window", "seed", "ignore_eos",
 * "thinking", "stop", "full_context", and "json_schema" or "regex"; or {"save": PATH} or {"resume": PATH} alone. Free
 * it in either case. */
mb_status request_parse(const char *text, size_t bytes, const runner_options *defaults, request *out);
void request_free(request *request);

/* The request's tokens, malloc'd. Of a conversation that would leave an answer too little room in the context, the
 * oldest exchanges are left out: *dropped messages. Time is linear in the conversation. MB_ERROR_CANCELLED: somebody
 * asked for that meanwhile (cancel.h). *ids may be set even where it fails. */
mb_status request_tokens(const request *request, const open_bundle *bundle, int32_t **ids, size_t *count,
                         uint32_t *dropped);

/* The same tokens without the oldest exchange that is still there, where *dropped messages are left out already: counts
 * on. *count is 0 where only the last exchange is left, and for a plain text. */
mb_status request_shorter(const request *request, const open_bundle *bundle, uint32_t *dropped, int32_t **ids,
                          size_t *count);

#endif

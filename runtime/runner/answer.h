/* One answer: a prompt of tokens, and what the model says to it. */
#ifndef MB_RUNNER_ANSWER_H
#define MB_RUNNER_ANSWER_H

#include "mobile_bundle/constraint.h"
#include "runner/bundle.h"
#include "runner/stop.h"

typedef struct {
  const int32_t *ids;
  size_t count;
  uint32_t dropped_messages; /* of the conversation, because it would not fit the context; told in the event */
  const stop_strings *stops;
  mb_constraint *constraint; /* at its begin; NULL: any text */
  uint64_t form_bytes;       /* of memory, for it and what it needs */
  int32_t *held;             /* [context]: the token at each position of the decoder, kept up to date */
  /* Takes tokens out of a full context, out of `held`, too, so that the answer goes on: *removed of them, 0: there are
   * none. NULL: it ends there. */
  mb_status (*make_room)(void *room_maker, uint32_t *removed);
  void *room_maker;
} answer_prompt;

/* Emits prompt, tokens and done. The decoder may hold the first tokens of the prompt already, but never all of them.
 * MB_ERROR_NUMERIC: the model gave logits that are not finite; the tokens before them were emitted. */
mb_status answer(const runner_options *options, open_bundle *bundle, const answer_prompt *prompt);
/* Emits the done of an answer that was cancelled before its prompt had tokens. */
mb_status answer_cancelled(const runner_options *options, open_bundle *bundle);

#endif

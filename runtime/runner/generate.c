#include <stdlib.h>

#include "base/error.h"
#include "runner/answer.h"
#include "runner/cancel.h"
#include "runner/commands.h"
#include "runner/prompt.h"

mb_status command_generate(const runner_options *options, open_bundle *bundle) {
  int32_t *ids = NULL, *held = malloc(decoder_options(bundle->decoder)->context * sizeof *held);
  size_t count = 0;
  if (!held) return mb_fail(MB_ERROR_MEMORY, "no memory for an answer");
  cancel_listen(bundle->decoder);
  mb_status status = prompt_tokens(options, bundle, &ids, &count);
  if (status == MB_OK) {
    static const stop_strings none;
    const answer_prompt prompt = {.stops = &none, .ids = ids, .count = count, .held = held};
    status = answer(options, bundle, &prompt);
  } else if (status == MB_ERROR_CANCELLED) {
    status = answer_cancelled(options, bundle);
  }
  cancel_forget();
  free(ids);
  free(held);
  return status;
}

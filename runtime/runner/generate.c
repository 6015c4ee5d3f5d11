#include <stdlib.h>

#include "runner/answer.h"
#include "runner/cancel.h"
#include "runner/commands.h"
#include "runner/prompt.h"

mb_status command_generate(const runner_options *options, open_bundle *bundle) {
  int32_t *ids = NULL;
  size_t count = 0;
  cancel_listen(bundle->decoder);
  mb_status status = prompt_tokens(options, bundle, &ids, &count);
  if (status == MB_OK) {
    const answer_prompt prompt = {.ids = ids, .count = count};
    status = answer(options, bundle, &prompt);
  } else if (status == MB_ERROR_CANCELLED) {
    status = answer_cancelled(options, bundle);
  }
  cancel_forget();
  free(ids);
  return status;
}

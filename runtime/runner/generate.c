#include <stdlib.h>

#include "base/error.h"
#include "runner/answer.h"
#include "runner/cancel.h"
#include "runner/commands.h"
#include "runner/form.h"
#include "runner/prompt.h"

mb_status command_generate(const runner_options *options, open_bundle *bundle) {
  int32_t *ids = NULL, *held = malloc(decoder_options(bundle->decoder)->context * sizeof *held);
  size_t count = 0;
  if (!held) return mb_fail(MB_ERROR_MEMORY, "no memory for an answer");
  cancel_listen(bundle->decoder);
  form wanted;
  form_maker forms = {0};
  mb_constraint *constraint = NULL;
  mb_status status = form_of_options(options, &wanted);
  if (status == MB_OK) status = form_make(&forms, bundle, &wanted, &constraint);
  if (status == MB_OK) status = prompt_tokens(options, bundle, &ids, &count);
  if (status == MB_OK) {
    static const stop_strings none;
    const answer_prompt prompt = {.stops = &none,
                                  .constraint = constraint,
                                  .form_bytes = form_bytes(&forms),
                                  .ids = ids,
                                  .count = count,
                                  .held = held};
    status = answer(options, bundle, &prompt);
  } else if (status == MB_ERROR_CANCELLED) {
    status = answer_cancelled(options, bundle);
  }
  cancel_forget();
  form_end(&forms);
  free(wanted.text);
  free(ids);
  free(held);
  return status;
}

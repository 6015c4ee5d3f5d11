#include "bundle.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "error.h"

mb_status bundle_open(const runner_options *options, open_bundle *bundle) {
  *bundle = (open_bundle){.started = bundle->started};
  char path[4096];
  struct stat st;
  const int length = snprintf(path, sizeof path, "%s/tokenizer.bin", options->bundle);
  if (length < 0 || (size_t)length >= sizeof path) return mb_fail(MB_ERROR_ARGUMENT, "the bundle's path is too long");
  mb_status status = mb_model_open(options->bundle, &options->model, &bundle->model);
  if (status == MB_OK) status = mb_tokenizer_open(path, &bundle->tokenizer);
  if (status == MB_OK && stat(path, &st) == 0) bundle->tokenizer_bytes = (uint64_t)st.st_size;
  if (status == MB_OK) status = mb_session_open(bundle->model, &options->session, &bundle->session);
  if (status != MB_OK) bundle_close(bundle);
  return status;
}

void bundle_close(open_bundle *bundle) {
  mb_session_close(bundle->session);
  mb_tokenizer_close(bundle->tokenizer);
  mb_model_close(bundle->model);
  bundle->session = NULL;
  bundle->tokenizer = NULL;
  bundle->model = NULL;
}

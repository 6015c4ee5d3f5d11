#include "runner/bundle.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"

mb_status bundle_tokenizer_path(const char *bundle, char *path, size_t capacity) {
  const int length = snprintf(path, capacity, "%s/tokenizer.bin", bundle);
  return length >= 0 && (size_t)length < capacity ? MB_OK : mb_fail(MB_ERROR_ARGUMENT, "the bundle's path is too long");
}

mb_status bundle_open(const runner_options *options, open_bundle *bundle) {
  *bundle = (open_bundle){.started = bundle->started};
  char path[4096];
  struct stat st;
  mb_status status = bundle_tokenizer_path(options->bundle, path, sizeof path);
  if (status == MB_OK) status = mb_tokenizer_open(path, &bundle->tokenizer);
  if (status == MB_OK && stat(path, &st) == 0) bundle->tokenizer_bytes = (uint64_t)st.st_size;
  if (status == MB_OK) status = decoder_open(options, &bundle->decoder);
  if (status != MB_OK) bundle_close(bundle);
  return status;
}

void bundle_close(open_bundle *bundle) {
  decoder_close(bundle->decoder);
  mb_tokenizer_close(bundle->tokenizer);
  bundle->decoder = NULL;
  bundle->tokenizer = NULL;
}

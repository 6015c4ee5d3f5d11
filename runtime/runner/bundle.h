/* The parts of a bundle that mobile-run opens, and their end. */
#ifndef MB_RUNNER_BUNDLE_H
#define MB_RUNNER_BUNDLE_H

#include "mobile_bundle/tokenizer.h"
#include "runner/decoder.h"

typedef struct {
  decoder *decoder;
  mb_tokenizer *tokenizer;
  uint64_t tokenizer_bytes;
  double started; /* when main began, by seconds_now */
} open_bundle;

mb_status bundle_tokenizer_path(const char *bundle, char *path, size_t capacity);
/* Opens tokenizer and decoder; on an error closes what was opened. */
mb_status bundle_open(const runner_options *options, open_bundle *bundle);
void bundle_close(open_bundle *bundle);

#endif

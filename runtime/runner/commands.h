/* What mobile-run does: with an open bundle, or with one on the disk. */
#ifndef MB_RUNNER_COMMANDS_H
#define MB_RUNNER_COMMANDS_H

#include "runner/bundle.h"

mb_status command_generate(const runner_options *options, open_bundle *bundle);
/* Answers requests from standard input, one after another, until it ends. */
mb_status command_serve(const runner_options *options, open_bundle *bundle);
/* Prefill or decode of arbitrary tokens, as llama-bench does: one warm-up, then the repetitions. */
mb_status command_bench(const runner_options *options, open_bundle *bundle, double load_seconds);

/* Decodes stored forms; nothing to do is success. */
mb_status command_install(const runner_options *options);
/* Reads every byte of weights, cache and tokenizer. */
mb_status command_verify(const runner_options *options);
/* Reports the progress of an installation; an mb_progress. context: the runner_options. */
bool report_install(void *context, uint64_t done, uint64_t total, const char *what);

#endif

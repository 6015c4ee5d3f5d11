/* What mobile-run does once a bundle is open. */
#ifndef MB_RUNNER_COMMANDS_H
#define MB_RUNNER_COMMANDS_H

#include "bundle.h"

mb_status command_generate(const runner_options *options, open_bundle *bundle);
/* Prefill or decode of arbitrary tokens, as llama-bench does: one warm-up, then the repetitions. */
mb_status command_bench(const runner_options *options, open_bundle *bundle, double load_seconds);

#endif

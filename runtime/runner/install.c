/* The commands that look after a bundle's files: install and verify. */
#include "base/clock.h"
#include "runner/commands.h"
#include "runner/events.h"

typedef struct {
  const runner_options *options;
  uint64_t peak_anonymous_bytes;
} installing;

bool report_install(void *context, uint64_t done, uint64_t total, const char *what) {
  const runner_options *options = context;
  emit_install_progress(options->json, done, total, what);
  return true;
}

static bool report_and_measure(void *context, uint64_t done, uint64_t total, const char *what) {
  installing *state = context;
  const process_memory memory = process_memory_read();
  const uint64_t anonymous = memory.anonymous_bytes + memory.swap_bytes;
  if (anonymous > state->peak_anonymous_bytes) state->peak_anonymous_bytes = anonymous;
  emit_install_progress(state->options->json, done, total, what);
  return true;
}

mb_status command_install(const runner_options *options) {
  installing state = {options, 0};
  const mb_install_options install = {.size = sizeof install,
                                      .cache_dir = options->model.cache_dir,
                                      .progress = report_and_measure,
                                      .progress_context = &state};
  install_event event = {.bundle = options->bundle};
  const double begin = seconds_now();
  mb_status status = mb_install(options->bundle, &install, &event.result);
  event.seconds = seconds_now() - begin;
  event.peak_anonymous_bytes = state.peak_anonymous_bytes;
  event.peak_rss_bytes = process_memory_read().peak_rss_bytes;
  if (status == MB_OK) emit_installed(options->json, &event);
  return status;
}

mb_status command_verify(const runner_options *options) {
  mb_tokenizer *tokenizer = NULL;
  char path[4096];
  mb_status status = bundle_tokenizer_path(options->bundle, path, sizeof path);
  if (status == MB_OK) status = mb_verify(options->bundle, options->model.cache_dir);
  if (status == MB_OK) status = mb_tokenizer_open(path, &tokenizer);
  mb_tokenizer_close(tokenizer);
  if (status == MB_OK) emit_verified(options->json, options->bundle);
  return status;
}

/* mobile-run: runs a bundle on the device. One static program, no library beside it. */
#include <signal.h>

#include "base/clock.h"
#include "runner/commands.h"
#include "runner/events.h"
#include "runner/form.h"
#include "runner/sandbox.h"

static mb_status say_loaded(const runner_options *options, const open_bundle *bundle, uint32_t threads,
                            double seconds) {
  load_event event = {.bundle = options->bundle,
                      .kernels = decoder_kernels(bundle->decoder),
                      .threads = threads,
                      .context = decoder_options(bundle->decoder)->context,
                      .seconds = seconds,
                      .tokenizer_bytes = bundle->tokenizer_bytes,
                      .form_bytes = form_most_bytes(bundle)};
  mb_status status = decoder_memory(bundle->decoder, UINT32_MAX, event.context, &event.memory);
  if (status == MB_OK) emit_load(options->json, &event);
  return status;
}

/* Opens the bundle, says so, and generates or measures. */
static mb_status run(runner_options *options, open_bundle *bundle) {
  options->model.progress = report_install;
  options->model.progress_context = options;
  mb_status status = bundle_open(options, bundle);
  if (status != MB_OK) return status;
  const double seconds = seconds_now() - bundle->started;
  options->session.threads = decoder_options(bundle->decoder)->threads;
  status = say_loaded(options, bundle, options->session.threads, seconds);
  if (status != MB_OK) return status;
  switch (options->command) {
    case COMMAND_BENCH:
      return command_bench(options, bundle, seconds);
    case COMMAND_SERVE:
      return command_serve(options, bundle);
    default:
      return command_generate(options, bundle);
  }
}

int main(int argc, char **argv) {
  sandbox_begin();
  runner_options options;
  open_bundle bundle = {.started = seconds_now()};
  const int code = runner_options_parse(argc, argv, &options);
  if (code >= 0) return code;
  /* A reader that goes away ends the program by a failing write, not by a signal in the middle of a line; so does a
   * limit on the size of files. */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  if (options.command == COMMAND_BENCH) {
    const uint32_t tokens = options.bench_prompt ? options.bench_prompt : options.bench_generate;
    if (options.session.context == 0) options.session.context = tokens;
  }
  mb_status status;
  switch (options.command) {
    case COMMAND_INSTALL:
      status = command_install(&options);
      break;
    case COMMAND_VERIFY:
      status = command_verify(&options);
      break;
    default:
      status = run(&options, &bundle);
  }
  if (status != MB_OK) emit_error(options.json, status, mb_error_message());
  bundle_close(&bundle);
  return status == MB_OK ? 0 : status == MB_ERROR_ARGUMENT ? 2 : 1;
}

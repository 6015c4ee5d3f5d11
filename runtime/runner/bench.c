#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "runner/commands.h"
#include "runner/events.h"

/* Prefill: all tokens in one call. Decode: one by one, from an empty cache. Returns tokens per second, 0 on an error.
 */
static mb_status repetition(open_bundle *bundle, const int32_t *tokens, uint32_t count, bool decode, double *rate) {
  const float *logits;
  mb_status status = decoder_rewind(bundle->decoder, 0);
  const double begin = seconds_now();
  if (decode) {
    for (uint32_t i = 0; i < count && status == MB_OK; i++)
      status = decoder_feed(bundle->decoder, tokens + i, 1, &logits);
  } else if (status == MB_OK) {
    status = decoder_feed(bundle->decoder, tokens, count, &logits);
  }
  *rate = count / (seconds_now() - begin);
  return status;
}

mb_status command_bench(const runner_options *options, open_bundle *bundle, double load_seconds) {
  const bool decode = options->bench_generate != 0;
  const uint32_t count = decode ? options->bench_generate : options->bench_prompt;
  const uint32_t vocabulary = decoder_config(bundle->decoder)->vocabulary;
  char test[32];
  snprintf(test, sizeof test, "%s%u", decode ? "tg" : "pp", count);
  int32_t *tokens = malloc(count * sizeof *tokens);
  double *rates = calloc(options->bench_repetitions, sizeof *rates);
  bench_event event = {.test = test,
                       .threads = options->session.threads,
                       .tokens_per_second = rates,
                       .repetitions = options->bench_repetitions,
                       .load_seconds = load_seconds};
  mb_status status = tokens && rates ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for the benchmark");
  if (status == MB_OK) {
    uint32_t random = 1;
    for (uint32_t i = 0; i < count; i++) {
      random = random * 1664525u + 1013904223u;
      tokens[i] = (int32_t)((random >> 8) % vocabulary);
    }
    /* The warm-up: maps the weights' pages, and tells how long the very first token takes. */
    double ignored;
    status = repetition(bundle, tokens, 1, true, &ignored);
    event.first_token_seconds = seconds_now() - bundle->started;
    if (status == MB_OK) status = repetition(bundle, tokens, count < 16 ? count : 16, decode, &ignored);
  }
  for (uint32_t i = 0; i < options->bench_repetitions && status == MB_OK; i++)
    status = repetition(bundle, tokens, count, decode, &rates[i]);
  if (status == MB_OK) {
    event.memory = process_memory_read();
    emit_bench(options->json, &event);
  }
  free(tokens);
  free(rates);
  return status;
}

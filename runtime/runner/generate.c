#include <stdlib.h>
#include <string.h>

#include "cancel.h"
#include "clock.h"
#include "commands.h"
#include "error.h"
#include "events.h"
#include "prompt.h"

static bool ends(const mb_model_config *config, int32_t token) {
  for (uint32_t i = 0; i < config->eos_count; i++) {
    if (config->eos_tokens[i] == token) return true;
  }
  return false;
}

/* One answer: the token loop, with its events. */
static mb_status answer(const runner_options *options, open_bundle *bundle, mb_sampler *sampler, const float *logits,
                        char *piece, size_t piece_bytes, done_event *done) {
  const mb_model_config *config = decoder_config(bundle->decoder);
  mb_stream stream;
  mb_stream_begin(&stream, bundle->tokenizer, MB_STREAM_SKIP_SPECIAL | MB_STREAM_CONTINUES);
  const double begin = seconds_now();
  mb_status status = MB_OK;
  done->reason = "length";
  while (done->tokens < options->max_new_tokens) {
    if (cancel_requested()) {
      done->reason = "cancelled";
      break;
    }
    const int32_t token = mb_sampler_sample(sampler, logits);
    if (done->tokens == 0) done->first_token_seconds = seconds_now() - bundle->started;
    if (!options->ignore_eos && ends(config, token)) {
      done->reason = "eos";
      break;
    }
    mb_sampler_accept(sampler, token);
    emit_token(options->json, token, piece, mb_stream_token(&stream, token, piece, piece_bytes));
    if (++done->tokens == options->max_new_tokens) break;
    if (decoder_position(bundle->decoder) == decoder_options(bundle->decoder)->context) {
      done->reason = "context";
      break;
    }
    status = decoder_feed(bundle->decoder, &token, 1, &logits);
    if (status == MB_ERROR_CANCELLED) {
      done->reason = "cancelled";
      status = MB_OK;
      break;
    }
    if (status != MB_OK) break;
  }
  done->seconds = seconds_now() - begin;
  const size_t rest = mb_stream_finish(&stream, piece, piece_bytes);
  if (rest) emit_token(options->json, -1, piece, rest);
  return status;
}

static mb_status generate(const runner_options *options, open_bundle *bundle, const int32_t *ids, size_t count,
                          mb_sampler *sampler, char *piece, size_t piece_bytes) {
  done_event done = {.reason = "cancelled", .prompt_tokens = (uint32_t)count};
  const float *logits;
  const double begin = seconds_now();
  cancel_listen(bundle->decoder);
  mb_status status = decoder_feed(bundle->decoder, ids, count, &logits);
  if (status == MB_OK) {
    done.prompt_seconds = seconds_now() - begin;
    emit_prompt(options->json, done.prompt_tokens, done.prompt_seconds);
    for (size_t i = 0; i < count; i++) mb_sampler_accept(sampler, ids[i]);
    status = answer(options, bundle, sampler, logits, piece, piece_bytes, &done);
  } else if (status == MB_ERROR_CANCELLED) {
    status = MB_OK;
  }
  if (status != MB_OK) return status;
  /* What these very tokens should have cost: a prompt shorter than a chunk leaves most of the scratch untouched. */
  mb_memory used;
  decoder_memory(bundle->decoder, (uint32_t)count, &used);
  done.memory = process_memory_read();
  done.predicted_peak_bytes = used.resident_file_bytes + bundle->tokenizer_bytes + used.scratch_bytes +
                              used.process_bytes + used.kv_bytes_per_token * decoder_position(bundle->decoder);
  emit_done(options->json, &done);
  return MB_OK;
}

mb_status command_generate(const runner_options *options, open_bundle *bundle) {
  const mb_model_config *config = decoder_config(bundle->decoder);
  const size_t piece_bytes = mb_tokenizer_longest(bundle->tokenizer) + 16;
  int32_t *ids = NULL;
  size_t count = 0;
  mb_sampler *sampler = NULL;
  char *piece = malloc(piece_bytes);
  mb_status status = piece ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for a token");
  if (status == MB_OK) status = prompt_tokens(options, bundle->tokenizer, &ids, &count);
  if (status == MB_OK && count == 0) {
    /* An empty prompt starts from BOS where the model has one. */
    if (config->bos_token < 0) {
      status = mb_fail(MB_ERROR_ARGUMENT, "the prompt is empty, and this model has no BOS token to start from");
    } else {
      ids[count++] = config->bos_token;
    }
  }
  if (status == MB_OK) status = mb_sampler_open(config->vocabulary, &options->sampler, &sampler);
  if (status == MB_OK) status = generate(options, bundle, ids, count, sampler, piece, piece_bytes);
  cancel_forget();
  mb_sampler_close(sampler);
  free(ids);
  free(piece);
  return status;
}

/* mobile-run: the engine itself. */
#include <stdlib.h>

#include "base/error.h"
#include "engine/engine.h"
#include "runner/decoder.h"
#include "runner/process_memory.h"

struct decoder {
  mb_model *model;
  mb_session *session;
};

const char decoder_runtime[] = "native";
const char decoder_program[] = "mobile-run";
const unsigned decoder_option_set = DECODER_KV | DECODER_KERNELS | DECODER_MAPPING | DECODER_LOOKUP;

mb_status decoder_open(const runner_options *options, decoder **out) {
  decoder *d = calloc(1, sizeof *d);
  if (!d) return mb_fail(MB_ERROR_MEMORY, "no memory to open a bundle");
  mb_status status = mb_model_open(options->bundle, &options->model, &d->model);
  if (status == MB_OK) status = mb_session_open(d->model, &options->session, &d->session);
  if (status != MB_OK) {
    decoder_close(d);
    d = NULL;
  }
  *out = d;
  return status;
}

void decoder_close(decoder *d) {
  if (!d) return;
  mb_session_close(d->session);
  mb_model_close(d->model);
  free(d);
}

const mb_model_config *decoder_config(const decoder *d) { return mb_model_get_config(d->model); }

const char *decoder_kernels(const decoder *d) { return mb_model_kernels(d->model); }

const mb_session_options *decoder_options(const decoder *d) { return mb_session_get_options(d->session); }

mb_status decoder_memory(const decoder *d, uint32_t chunk, uint32_t positions, mb_memory *memory) {
  mb_session_options fed = *mb_session_get_options(d->session);
  if (chunk < fed.prefill_chunk) fed.prefill_chunk = chunk;
  if (fed.lookahead >= fed.prefill_chunk) fed.lookahead = fed.prefill_chunk - 1;
  mb_memory whole;
  mb_status status = mb_session_memory(d->session, &whole);
  if (status == MB_OK) status = mb_memory_estimate(decoder_config(d), &fed, memory);
  memory->file_bytes = whole.file_bytes;
  memory->touched_file_bytes = whole.touched_file_bytes;
  memory->resident_file_bytes = whole.resident_file_bytes;
  if (status == MB_OK) status = mb_kv_bytes(decoder_config(d), decoder_options(d), positions, &memory->kv_bytes);
  /* The engine counts the runner of a phone; one that a developer has built may be three times as large. */
  const uint64_t program = process_program_bytes();
  if (program > memory->process_bytes) memory->process_bytes = program;
  return status;
}

uint32_t decoder_position(const decoder *d) { return mb_session_position(d->session); }

uint32_t decoder_rewind_point(const decoder *d, uint32_t position) {
  return mb_session_rewind_point(d->session, position);
}

mb_status decoder_rewind(decoder *d, uint32_t position) { return mb_session_rewind(d->session, position); }

mb_status decoder_remove(decoder *d, uint32_t first, uint32_t end) { return mb_session_remove(d->session, first, end); }

mb_status decoder_can_remove(const decoder *d) { return mb_session_can_remove(d->session); }

mb_status decoder_feed(decoder *d, const int32_t *tokens, size_t count, const float **logits) {
  return mb_session_feed(d->session, tokens, count, logits);
}

mb_status decoder_feed_all(decoder *d, const int32_t *tokens, size_t count, const float **logits) {
  return mb_session_feed_all(d->session, tokens, count, logits);
}

void decoder_cancel(decoder *d) { mb_session_cancel(d->session); }

mb_status decoder_state_bytes(const decoder *d, uint64_t *bytes) {
  return mb_session_state_bytes(d->session, mb_session_position(d->session), bytes);
}

mb_status decoder_save(const decoder *d, const int32_t *tokens, const char *path) {
  return mb_session_save(d->session, tokens, path);
}

mb_status decoder_resume(decoder *d, const char *path, int32_t *tokens, uint32_t *count) {
  return mb_session_resume(d->session, path, tokens, count);
}

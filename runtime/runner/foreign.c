#include "runner/foreign.h"

#include "base/error.h"
#include "engine/engine.h"
#include "runner/process_memory.h"

mb_status foreign_open(const runner_options *options, foreign_bundle *bundle) {
  const process_memory before = process_memory_read();
  bundle->floor_bytes = before.anonymous_bytes + before.file_bytes;
  bundle->position = bundle->written = 0;
  mb_model *model = NULL;
  mb_memory memory;
  mb_model_options open = options->model;
  open.mapping = MB_MAPPING_LAYERS; /* looking at it must not leave the whole file in memory: that is measured later */
  mb_status status = mb_model_open(options->bundle, &open, &model);
  if (status != MB_OK) return status;
  status = mb_model_memory(model, &options->session, &bundle->options, &memory);
  if (status == MB_OK) {
    const bool layers = options->model.mapping == MB_MAPPING_LAYERS;
    bundle->config = *mb_model_get_config(model);
    bundle->kernels = mb_model_kernels(model);
    bundle->file_bytes = memory.file_bytes;
    bundle->touched_file_bytes = memory.touched_file_bytes;
    bundle->resident_file_bytes = layers ? memory.resident_file_bytes : memory.touched_file_bytes;
  }
  mb_model_close(model);
  return status;
}

mb_status foreign_memory(const foreign_bundle *bundle, uint32_t chunk, uint32_t positions, mb_memory *memory) {
  mb_session_options fed = bundle->options;
  if (chunk < fed.prefill_chunk) fed.prefill_chunk = chunk;
  mb_status status = mb_memory_estimate(&bundle->config, &fed, memory);
  if (status == MB_OK) status = mb_kv_bytes(&bundle->config, &bundle->options, positions, &memory->kv_bytes);
  memory->file_bytes = bundle->file_bytes;
  memory->touched_file_bytes = bundle->touched_file_bytes;
  memory->resident_file_bytes = bundle->resident_file_bytes;
  memory->process_bytes = bundle->floor_bytes;
  return status;
}

const mb_model_config *decoder_config(const decoder *d) { return &foreign_bundle_of(d)->config; }

const char *decoder_kernels(const decoder *d) { return foreign_bundle_of(d)->kernels; }

const mb_session_options *decoder_options(const decoder *d) { return &foreign_bundle_of(d)->options; }

uint32_t decoder_position(const decoder *d) { return foreign_bundle_of(d)->position; }

uint32_t decoder_rewind_point(const decoder *d, uint32_t position) {
  const foreign_bundle *b = foreign_bundle_of(d);
  return b->keeps_all ? position : mb_rewind_point(&b->config, &b->options, b->written, position);
}

mb_status decoder_rewind(decoder *d, uint32_t position) {
  foreign_bundle *b = foreign_bundle_of(d);
  if (position == 0) b->written = 0;
  return mb_position_rewind(&b->position, position);
}

mb_status decoder_feed(decoder *d, const int32_t *tokens, size_t count, const float **logits) {
  foreign_bundle *b = foreign_bundle_of(d);
  *logits = NULL;
  mb_status status = mb_tokens_check(&b->config, b->options.context, b->position, tokens, count);
  while (status == MB_OK && count > 0) {
    const uint32_t n = count < b->options.prefill_chunk ? (uint32_t)count : b->options.prefill_chunk;
    if (b->written < b->position + n) b->written = b->position + n;
    status = foreign_compute(d, tokens, n, logits);
    if (status != MB_OK) break;
    b->position += n;
    tokens += n;
    count -= n;
  }
  if (status != MB_OK) *logits = NULL;
  return status;
}

mb_status decoder_feed_all(decoder *d, const int32_t *tokens, size_t count, const float **logits) {
  (void)d, (void)tokens, (void)count;
  *logits = NULL;
  return mb_fail(MB_ERROR_ARGUMENT, "%s gives the logits of the last token alone", decoder_program);
}

mb_status decoder_can_remove(const decoder *d) {
  (void)d;
  return mb_fail(MB_ERROR_ARGUMENT, "%s cannot move keys: mobile-run can", decoder_program);
}

mb_status decoder_remove(decoder *d, uint32_t first, uint32_t end) {
  (void)first, (void)end;
  return decoder_can_remove(d);
}

static mb_status no_states(void) {
  return mb_fail(MB_ERROR_ARGUMENT, "%s cannot keep states in files: mobile-run can", decoder_program);
}

mb_status decoder_state_bytes(const decoder *d, uint64_t *bytes) {
  (void)d;
  *bytes = 0;
  return no_states();
}

mb_status decoder_save(const decoder *d, const int32_t *tokens, const char *path) {
  (void)d, (void)tokens, (void)path;
  return no_states();
}

mb_status decoder_resume(decoder *d, const char *path, int32_t *tokens, uint32_t *count) {
  (void)d, (void)path, (void)tokens;
  *count = 0;
  return no_states();
}

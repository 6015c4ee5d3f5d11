#include "runner/facts.h"

#include "engine/engine.h"
#include "runner/process_memory.h"

mb_status bundle_facts_read(const runner_options *options, bundle_facts *facts) {
  const process_memory before = process_memory_read();
  facts->floor_bytes = before.anonymous_bytes + before.file_bytes;
  mb_model *model = NULL;
  mb_memory memory;
  mb_model_options open = options->model;
  open.mapping = MB_MAPPING_LAYERS; /* looking at it must not leave the whole file in memory: that is measured later */
  mb_status status = mb_model_open(options->bundle, &open, &model);
  if (status != MB_OK) return status;
  status = mb_model_memory(model, &options->session, &facts->options, &memory);
  if (status == MB_OK) {
    const bool layers = options->model.mapping == MB_MAPPING_LAYERS;
    facts->config = *mb_model_get_config(model);
    facts->kernels = mb_model_kernels(model);
    facts->file_bytes = memory.file_bytes;
    facts->touched_file_bytes = memory.touched_file_bytes;
    facts->resident_file_bytes = layers ? memory.resident_file_bytes : memory.touched_file_bytes;
  }
  mb_model_close(model);
  return status;
}

mb_status bundle_facts_memory(const bundle_facts *facts, uint32_t chunk, mb_memory *memory) {
  mb_session_options fed = facts->options;
  if (chunk < fed.prefill_chunk) fed.prefill_chunk = chunk;
  mb_status status = mb_memory_estimate(&facts->config, &fed, memory);
  memory->file_bytes = facts->file_bytes;
  memory->touched_file_bytes = facts->touched_file_bytes;
  memory->resident_file_bytes = facts->resident_file_bytes;
  memory->process_bytes = facts->floor_bytes;
  return status;
}

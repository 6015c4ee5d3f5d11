#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "option_struct.h"
#include "session.h"

enum {
  DEFAULT_CHUNK = 32,
  MOST_CHUNK = 256,
  MOST_THREADS = 64,
  DEFAULT_MOST_THREADS = 4, /* more rarely help on a phone, whose small cores then hold the big ones back */
  CACHE_LINE = 64,
  THREAD_BYTES = 24 * 1024, /* touched pages of a worker's stack and its bookkeeping */
  SAMPLER_BYTES = 8,        /* per token of the vocabulary */
  PROCESS_BYTES = 400 * 1024,
};

static uint32_t processors(void) {
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n < 1 ? 1 : n > DEFAULT_MOST_THREADS ? DEFAULT_MOST_THREADS : (uint32_t)n;
}

static mb_status resolve(const mb_model_config *config, const mb_session_options *given, mb_session_options *o) {
  mb_status status = mb_options_take("mb_session_options", given, o, sizeof *o);
  if (status != MB_OK) return status;
  if (o->context == 0) o->context = config->default_context;
  if (o->threads == 0) o->threads = processors();
  if (o->prefill_chunk == 0) o->prefill_chunk = DEFAULT_CHUNK;
  if (o->context > config->context)
    return mb_fail(MB_ERROR_ARGUMENT, "a context of %u tokens: this model was trained for %u at most", o->context,
                   config->context);
  if (o->threads > MOST_THREADS) return mb_fail(MB_ERROR_ARGUMENT, "%u threads: %d at most", o->threads, MOST_THREADS);
  if (o->prefill_chunk > MOST_CHUNK)
    return mb_fail(MB_ERROR_ARGUMENT, "a prefill chunk of %u tokens: %d at most", o->prefill_chunk, MOST_CHUNK);
  if (o->kv_type != MB_KV_INT8 && o->kv_type != MB_KV_F16)
    return mb_fail(MB_ERROR_ARGUMENT, "unknown type of KV cache %d", (int)o->kv_type);
  return MB_OK;
}

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Reserves `bytes` at the next cache line. What it returns is an offset in a pointer's clothes until it is placed. */
static void *reserve(uint64_t *total, uint64_t bytes) {
  uint64_t at = *total;
  *total += (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  return (void *)(uintptr_t)at;
}

mb_status mb_layout_compute(const mb_model_config *config, const mb_session_options *options, mb_layout *layout) {
  memset(layout, 0, sizeof *layout);
  mb_status status = resolve(config, options, &layout->options);
  if (status != MB_OK) return status;
  const mb_session_options *o = &layout->options;
  const uint64_t chunk = o->prefill_chunk, floats = sizeof(float);
  const uint32_t attention = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
  const uint32_t hidden_padded = mb_round_up(config->hidden, MB_COLUMN_PADDING);
  const uint32_t attention_padded = mb_round_up(attention, MB_COLUMN_PADDING);
  const uint32_t feed_padded = mb_round_up(config->feed_forward, MB_COLUMN_PADDING);
  const uint64_t widest = larger(larger(hidden_padded, attention_padded), feed_padded);
  const uint64_t shared_heads = config->heads / config->kv_heads;
  const uint32_t stride = layout->stride = mb_round_up(config->head_dim, MB_KV_BLOCK);
  const uint64_t blocks = stride / MB_KV_BLOCK;
  const bool int8 = o->kv_type == MB_KV_INT8;
  layout->kv_value_bytes = int8 ? 1 : 2;

  mb_buffers *b = &layout->buffers;
  uint64_t total = 0;
  b->hidden = reserve(&total, chunk * hidden_padded * floats);
  b->normed = reserve(&total, chunk * hidden_padded * floats);
  b->query = reserve(&total, chunk * attention * floats);
  b->key = reserve(&total, chunk * kv * floats);
  b->value = reserve(&total, chunk * kv * floats);
  b->attention = reserve(&total, chunk * attention_padded * floats);
  b->gate = reserve(&total, chunk * feed_padded * floats);
  b->up = reserve(&total, chunk * feed_padded * floats);
  b->codes = reserve(&total, chunk * widest);
  b->scales = reserve(&total, chunk * (widest / 32) * floats);
  b->sums = reserve(&total, chunk * (widest / 32) * sizeof(int32_t));
  b->panel = reserve(&total, widest * mb_round_up(o->prefill_chunk, 4));
  b->cosines = reserve(&total, chunk * (config->head_dim / 2) * floats);
  b->sines = reserve(&total, chunk * (config->head_dim / 2) * floats);
  b->query_codes = reserve(&total, int8 ? chunk * config->heads * stride : 0);
  b->query_scales = reserve(&total, int8 ? chunk * config->heads * blocks * floats : 0);
  b->query_padded = reserve(&total, int8 ? 0 : chunk * config->heads * stride * floats);
  b->scores = reserve(&total, o->threads * shared_heads * mb_round_up(o->context, 8) * floats);
  b->mixed = reserve(&total, o->threads * shared_heads * stride * floats);
  b->logits = reserve(&total, (o->all_logits ? chunk : 1) * config->vocabulary * floats);

  const uint64_t before_kv = total;
  const uint64_t vectors = (uint64_t)config->layers * config->kv_heads * o->context;
  b->keys = reserve(&total, vectors * stride * layout->kv_value_bytes);
  b->values = reserve(&total, vectors * stride * layout->kv_value_bytes);
  b->key_scales = reserve(&total, int8 ? vectors * blocks * sizeof(uint16_t) : 0);
  b->value_scales = reserve(&total, int8 ? vectors * blocks * sizeof(uint16_t) : 0);
  layout->kv_bytes = total - before_kv;
  layout->kv_bytes_per_token = (uint64_t)config->layers * config->kv_heads * 2 *
                               ((uint64_t)stride * layout->kv_value_bytes + (int8 ? blocks * sizeof(uint16_t) : 0));
  layout->total_bytes = total;
  if (total > SIZE_MAX / 2)
    return mb_fail(MB_ERROR_MEMORY, "a session of %u tokens needs %llu bytes: more than this process can address",
                   o->context, (unsigned long long)total);
  return MB_OK;
}

void mb_layout_place(mb_layout *layout, uint8_t *area) {
  void **pointers = (void **)&layout->buffers;
  for (size_t i = 0; i < sizeof layout->buffers / sizeof *pointers; i++) pointers[i] = area + (uintptr_t)pointers[i];
}

mb_status mb_memory_estimate(const mb_model_config *config, const mb_session_options *options, mb_memory *memory) {
  mb_layout layout;
  memset(memory, 0, sizeof *memory);
  mb_status status = mb_layout_compute(config, options, &layout);
  if (status != MB_OK) return status;
  memory->kv_bytes_per_token = layout.kv_bytes_per_token;
  memory->kv_bytes = layout.kv_bytes;
  memory->scratch_bytes = layout.total_bytes - layout.kv_bytes + layout.options.threads * (uint64_t)THREAD_BYTES +
                          config->vocabulary * (uint64_t)SAMPLER_BYTES;
  memory->process_bytes = PROCESS_BYTES;
  return MB_OK;
}

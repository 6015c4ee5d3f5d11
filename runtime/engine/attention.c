/* Attention of one layer: rotary embedding, the KV cache, scores, softmax and the mix of values.
 *
 * The cache of one layer and KV head is one sequential stream, [position][stride], so that a query reads it forwards.
 * int8: one fp16 scale per 32 values (the K of some models has outlier channels; a scale per vector would drown the
 * others). The query is quantised the same way, so that scores are integer products. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "engine/session.h"

enum {
  INLINE_WORK = 16384, /* multiply-adds of a decode step's attention below which waking the threads costs more */
};

typedef struct {
  mb_session *session;
  uint32_t layer;
  uint32_t count;
  uint32_t heads_per_item; /* query heads of one KV head that one item works on */
} attention_job;

void mb_attention_angles(mb_session *session, uint32_t count) {
  const uint32_t half = session->model->weights.config.head_dim / 2;
  const mb_buffers *b = &session->layout.buffers;
  for (uint32_t n = 0; n < count; n++) {
    for (uint32_t i = 0; i < half; i++) {
      /* The angle in float, as the models were trained; its cosine in double, so that every C library agrees. */
      const float angle = (float)(session->position + n) * session->model->inverse_frequencies[i];
      b->cosines[n * half + i] = (float)cos((double)angle);
      b->sines[n * half + i] = (float)sin((double)angle);
    }
  }
}

/* Hugging Face's layout: element i turns with element i + head_dim / 2. */
static void rotate(float *v, const float *cosines, const float *sines, uint32_t half, float scale) {
  for (uint32_t i = 0; i < half; i++) {
    const float a = v[i], b = v[i + half];
    v[i] = (a * cosines[i] - b * sines[i]) * scale;
    v[i + half] = (b * cosines[i] + a * sines[i]) * scale;
  }
}

/* One block of 32 values (fewer at the end of a head): codes, and the scale that belongs to them, NaN where a value is
 * not finite (as mb_activations). */
static float quantise_block(const float *v, uint32_t n, int8_t *codes) {
  float most = 0;
  bool finite = true;
  for (uint32_t i = 0; i < n; i++) {
    most = fabsf(v[i]) > most ? fabsf(v[i]) : most;
    finite = finite && isfinite(v[i]);
  }
  if (!finite) {
    memset(codes, 0, n);
    return NAN;
  }
  const float inverse = most > 1e-30f ? 127.0f / most : 0.0f;
  for (uint32_t i = 0; i < n; i++) codes[i] = (int8_t)lrintf(v[i] * inverse);
  return inverse > 0 ? most / 127.0f : 0.0f;
}

static void store_vector(const mb_layout *layout, const float *v, uint32_t head_dim, size_t at, uint8_t *cache,
                         uint16_t *scales) {
  if (layout->kv_value_bytes == 1) {
    int8_t *codes = (int8_t *)cache + at * layout->stride;
    const uint32_t blocks = layout->stride / MB_KV_BLOCK;
    for (uint32_t i = 0; i < blocks; i++) {
      const uint32_t start = i * MB_KV_BLOCK, left = head_dim - start;
      scales[at * blocks + i] =
          mb_f32_to_f16(quantise_block(v + start, left < MB_KV_BLOCK ? left : MB_KV_BLOCK, codes + start));
    }
  } else {
    uint16_t *halves = (uint16_t *)(void *)cache + at * layout->stride;
    for (uint32_t i = 0; i < head_dim; i++) halves[i] = mb_f32_to_f16(v[i]);
  }
}

static void prepare_tokens(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_layout *layout = &session->layout;
  const mb_buffers *b = &layout->buffers;
  const uint32_t half = c->head_dim / 2, stride = layout->stride, blocks = stride / MB_KV_BLOCK;
  const float query_scale = 1.0f / sqrtf((float)c->head_dim);
  for (uint32_t n = first; n < last; n++) {
    const float *cosines = b->cosines + (size_t)n * half, *sines = b->sines + (size_t)n * half;
    for (uint32_t h = 0; h < c->heads; h++) {
      const size_t vector = (size_t)n * c->heads + h;
      float *q = b->query + vector * c->head_dim;
      rotate(q, cosines, sines, half, query_scale);
      if (layout->options.kv_type == MB_KV_F16) {
        memcpy(b->query_padded + vector * stride, q, c->head_dim * sizeof *q);
        continue;
      }
      for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t start = i * MB_KV_BLOCK, left = c->head_dim - start;
        b->query_scales[vector * blocks + i] = quantise_block(q + start, left < MB_KV_BLOCK ? left : MB_KV_BLOCK,
                                                              b->query_codes + vector * stride + start);
      }
    }
    for (uint32_t h = 0; h < c->kv_heads; h++) {
      const size_t vector = ((size_t)n * c->kv_heads + h) * c->head_dim;
      const size_t at = ((size_t)job->layer * c->kv_heads + h) * layout->options.context + session->position + n;
      rotate(b->key + vector, cosines, sines, half, 1.0f);
      store_vector(layout, b->key + vector, c->head_dim, at, b->keys, b->key_scales);
      store_vector(layout, b->value + vector, c->head_dim, at, b->values, b->value_scales);
    }
  }
}

/* An item is one token and some of the query heads of one KV head. */
static void attend_items(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  const attention_job *job = context;
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_kernels *kernels = session->model->kernels;
  const mb_layout *layout = &session->layout;
  const mb_buffers *b = &layout->buffers;
  const uint32_t group = c->heads / c->kv_heads, parts = (group + job->heads_per_item - 1) / job->heads_per_item;
  const uint32_t stride = layout->stride, blocks = stride / MB_KV_BLOCK, context_size = layout->options.context;
  const size_t scores_stride = mb_round_up(context_size, 8);
  const size_t attention_padded = mb_round_up(c->heads * c->head_dim, MB_COLUMN_PADDING);
  float *scores = b->scores + thread * group * scores_stride, *mixed = b->mixed + (size_t)thread * group * stride;
  for (uint32_t item = first; item < last; item++) {
    const uint32_t n = item / (c->kv_heads * parts), kv_head = item / parts % c->kv_heads, part = item % parts;
    const uint32_t from = part * job->heads_per_item;
    const uint32_t heads = group - from < job->heads_per_item ? group - from : job->heads_per_item;
    const uint32_t position = session->position + n;
    const uint32_t start = c->sliding_window && position + 1 > c->sliding_window ? position + 1 - c->sliding_window : 0;
    const uint32_t positions = position + 1 - start;
    const size_t query = (size_t)n * c->heads + (size_t)kv_head * group + from;
    const size_t at = ((size_t)job->layer * c->kv_heads + kv_head) * context_size + start;
    const bool int8 = layout->options.kv_type == MB_KV_INT8;
    mb_queries queries = {.heads = heads};
    mb_kv_head keys = {
        .values = b->keys + at * stride * layout->kv_value_bytes, .stride = stride, .positions = positions};
    mb_kv_head values = keys;
    values.values = b->values + at * stride * layout->kv_value_bytes;
    if (int8) {
      queries.codes = b->query_codes + query * stride;
      queries.scales = b->query_scales + query * blocks;
      keys.scales = b->key_scales + at * blocks;
      values.scales = b->value_scales + at * blocks;
    } else {
      queries.values = b->query_padded + query * stride;
    }
    (int8 ? kernels->scores_int8 : kernels->scores_f16)(&queries, &keys, scores, scores_stride);
    float sums[MB_MOST_SHARED_HEADS];
    for (uint32_t h = 0; h < heads; h++) sums[h] = kernels->softmax_terms(scores + h * scores_stride, positions);
    memset(mixed, 0, (size_t)heads * stride * sizeof *mixed);
    (int8 ? kernels->mix_int8 : kernels->mix_f16)(scores, scores_stride, heads, &values, mixed);
    for (uint32_t h = 0; h < heads; h++) {
      float *out = b->attention + n * attention_padded + (size_t)(kv_head * group + from + h) * c->head_dim;
      const float inverse = 1.0f / sums[h];
      for (uint32_t i = 0; i < c->head_dim; i++) out[i] = mixed[(size_t)h * stride + i] * inverse;
    }
  }
}

void mb_attention(mb_session *session, uint32_t layer, uint32_t count) {
  const mb_model_config *c = &session->model->weights.config;
  const uint32_t group = c->heads / c->kv_heads, threads = mb_pool_threads(session->pool);
  attention_job job = {session, layer, count, group};
  mb_pool_run(session->pool, prepare_tokens, &job, count, count == 1 ? 1 : 2);
  if (count == 1 && c->kv_heads < threads) {
    const uint32_t parts = (threads + c->kv_heads - 1) / c->kv_heads;
    job.heads_per_item = (group + parts - 1) / parts;
  }
  const uint32_t items = count * c->kv_heads * ((group + job.heads_per_item - 1) / job.heads_per_item);
  const uint64_t work = (uint64_t)count * c->heads * c->head_dim * (session->position + count);
  mb_pool_run(session->pool, attend_items, &job, items, work < INLINE_WORK ? items : 1);
}

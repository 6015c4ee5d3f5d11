/* Attention of one layer: rotary embedding, the KV cache, scores, softmax and the mix of values.
 *
 * The cache of one layer and KV head is one sequential stream, [position][stride], so that a query reads it forwards.
 * int8: one fp16 scale per 32 values (the K of some models has outlier channels; a scale per vector would drown the
 * others). The query is quantised the same way, so that scores are integer products. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "engine/config.h"
#include "engine/norm.h"
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

static void angles(const mb_session *session, uint32_t count, const float *frequencies, float *cosines, float *sines) {
  const mb_model_config *c = &session->model->weights.config;
  const uint32_t half = mb_rotary_dim(c) / 2;
  const float scale = mb_factor(c->rotary_scale);
  for (uint32_t n = 0; n < count; n++) {
    for (uint32_t i = 0; i < half; i++) {
      /* The angle in float, as the models were trained; its cosine in double, so that every C library agrees. */
      const float angle = (float)(session->position + n) * frequencies[i];
      cosines[n * half + i] = (float)cos((double)angle) * scale;
      sines[n * half + i] = (float)sin((double)angle) * scale;
    }
  }
}

void mb_attention_angles(mb_session *session, uint32_t count) {
  const mb_buffers *b = &session->layout.buffers;
  for (uint32_t i = 0; i < 2; i++)
    if (b->cosines[i]) angles(session, count, session->model->inverse_frequencies[i], b->cosines[i], b->sines[i]);
}

/* A head's first 2 * half values by their angles, all n values by the scale. Hugging Face's layout: element i turns
 * with element i + half. */
static void rotate(float *v, const float *cosines, const float *sines, uint32_t half, uint32_t n, float scale) {
  for (uint32_t i = 0; i < half; i++) {
    const float a = v[i], b = v[i + half];
    v[i] = (a * cosines[i] - b * sines[i]) * scale;
    v[i + half] = (b * cosines[i] + a * sines[i]) * scale;
  }
  for (uint32_t i = 2 * half; i < n; i++) v[i] *= scale;
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

/* The query and key heads of a token: rotated, normed where that comes last, and the queries scaled. */
static void turn_heads(const attention_job *job, uint32_t n, float *queries, float *keys) {
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_layer *layer = &session->model->layers[job->layer];
  const mb_buffers *b = &session->layout.buffers;
  const bool late = (c->flags & MB_MODEL_LATE_QK_NORMS) != 0, rotated = layer->rope != MB_NO_ROPE;
  const uint32_t dim = c->head_dim, half = rotated ? mb_rotary_dim(c) / 2 : 0;
  const float query_scale = c->query_scale != 0 ? c->query_scale : 1.0f / sqrtf((float)dim);
  const float *cosines = rotated ? b->cosines[layer->rope] + (size_t)n * half : NULL;
  const float *sines = rotated ? b->sines[layer->rope] + (size_t)n * half : NULL;
  for (uint32_t h = 0; h < c->heads; h++)
    rotate(queries + (size_t)h * dim, cosines, sines, half, dim, late ? 1.0f : query_scale);
  for (uint32_t h = 0; h < c->kv_heads; h++) rotate(keys + (size_t)h * dim, cosines, sines, half, dim, 1.0f);
  if (!late) return;
  if (layer->query_norm)
    mb_normalise_heads(session->model->kernels, queries, layer->query_norm, c->heads, dim, c->norm_epsilon);
  if (layer->key_norm)
    mb_normalise_heads(session->model->kernels, keys, layer->key_norm, c->kv_heads, dim, c->norm_epsilon);
  for (uint32_t i = 0; i < c->heads * dim; i++) queries[i] *= query_scale;
}

/* Where a layer's cache of one KV head begins, in vectors, and how many positions it has. */
static size_t head_begin(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t *positions) {
  const mb_layout *layout = &session->layout;
  const mb_layer *l = &session->model->layers[layer];
  const size_t kv_heads = session->model->weights.config.kv_heads, context = layout->options.context;
  *positions = l->window ? layout->ring : layout->options.context;
  const size_t before =
      l->window ? layout->full_layers * context + l->windowed_before * (size_t)layout->ring : l->full_before * context;
  return before * kv_heads + (size_t)kv_head * *positions;
}

static void prepare_tokens(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_layout *layout = &session->layout;
  const mb_buffers *b = &layout->buffers;
  const uint32_t stride = layout->stride, blocks = stride / MB_KV_BLOCK;
  for (uint32_t n = first; n < last; n++) {
    turn_heads(job, n, b->query + (size_t)n * c->heads * c->head_dim, b->key + (size_t)n * c->kv_heads * c->head_dim);
    for (uint32_t h = 0; h < c->heads; h++) {
      const size_t vector = (size_t)n * c->heads + h;
      float *q = b->query + vector * c->head_dim;
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
      uint32_t kept;
      size_t at = head_begin(session, job->layer, h, &kept);
      at += (session->position + n) % kept;
      store_vector(layout, b->key + vector, c->head_dim, at, b->keys, b->key_scales);
      store_vector(layout, b->value + vector, c->head_dim, at, b->values, b->value_scales);
    }
  }
}

/* The query heads from vector `at` on. */
static mb_queries queries_at(const mb_layout *layout, size_t at, uint32_t heads) {
  const mb_buffers *b = &layout->buffers;
  const size_t stride = layout->stride;
  if (layout->options.kv_type == MB_KV_F16)
    return (mb_queries){.values = b->query_padded + at * stride, .heads = heads};
  return (mb_queries){
      .codes = b->query_codes + at * stride, .scales = b->query_scales + at * (stride / MB_KV_BLOCK), .heads = heads};
}

/* The keys, or the values, from vector `at` on. */
static mb_kv_head cached(const mb_layout *layout, size_t at, uint32_t positions, const uint8_t *cache,
                         const uint16_t *scales) {
  const size_t stride = layout->stride;
  return (mb_kv_head){.values = cache + at * stride * layout->kv_value_bytes,
                      .scales = layout->kv_value_bytes == 1 ? scales + at * (stride / MB_KV_BLOCK) : NULL,
                      .stride = layout->stride,
                      .positions = positions};
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
  const uint32_t stride = layout->stride;
  const uint32_t window = session->model->layers[job->layer].window;
  const size_t scores_stride = mb_round_up(layout->options.context, 8);
  const size_t attention_padded = mb_round_up(c->heads * c->head_dim, MB_COLUMN_PADDING);
  float *scores = b->scores + thread * group * scores_stride, *mixed = b->mixed + (size_t)thread * group * stride;
  for (uint32_t item = first; item < last; item++) {
    const uint32_t n = item / (c->kv_heads * parts), kv_head = item / parts % c->kv_heads, part = item % parts;
    const uint32_t from = part * job->heads_per_item;
    const uint32_t heads = group - from < job->heads_per_item ? group - from : job->heads_per_item;
    const uint32_t position = session->position + n;
    const uint32_t start = window && position + 1 > window ? position + 1 - window : 0;
    const uint32_t positions = position + 1 - start;
    const mb_queries queries = queries_at(layout, (size_t)n * c->heads + (size_t)kv_head * group + from, heads);
    const bool int8 = layout->options.kv_type == MB_KV_INT8;
    /* The positions lie in one piece, or in a ring's end and its beginning. */
    uint32_t kept;
    const size_t begin = head_begin(session, job->layer, kv_head, &kept);
    const uint32_t slot = start % kept, end = kept - slot < positions ? kept - slot : positions;
    for (uint32_t p = 0; p < positions; p = p == 0 ? end : positions) {
      const mb_kv_head keys = cached(layout, begin + (p ? 0 : slot), p ? positions - end : end, b->keys, b->key_scales);
      (int8 ? kernels->scores_int8 : kernels->scores_f16)(&queries, &keys, scores + p, scores_stride);
    }
    float sums[MB_MOST_SHARED_HEADS];
    if (c->score_cap != 0)
      for (uint32_t h = 0; h < heads; h++) mb_soft_cap(scores + h * scores_stride, positions, c->score_cap);
    for (uint32_t h = 0; h < heads; h++) sums[h] = kernels->softmax_terms(scores + h * scores_stride, positions);
    memset(mixed, 0, (size_t)heads * stride * sizeof *mixed);
    for (uint32_t p = 0; p < positions; p = p == 0 ? end : positions) {
      const mb_kv_head values =
          cached(layout, begin + (p ? 0 : slot), p ? positions - end : end, b->values, b->value_scales);
      (int8 ? kernels->mix_int8 : kernels->mix_f16)(scores + p, scores_stride, heads, &values, mixed);
    }
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

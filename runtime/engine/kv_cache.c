/* The cache of one layer and KV head is one sequential stream, so that a query reads it forwards.
 * int8: [position][stride], one fp16 scale per 32 values (the K of some models has outlier channels; a scale per vector
 * would drown the others). Queries are quantised the same way, so that scores are integer products.
 * int4 and k8v4: the same scales; kernels/int4_layout.h. fp16: [position][stride]. */
#include "engine/kv_cache.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "engine/config.h"

float mb_kv_quantise(const float *v, uint32_t n, int8_t *codes) {
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

/* One block to codes in [-8, 7]; returns their scale. The largest value gets the code -8, by a scale of its opposite
 * sign: so all 16 codes are used. Then the scale that suits the codes best. */
static float quantise_4_bits(const float v[MB_KV_BLOCK], int32_t codes[MB_KV_BLOCK]) {
  float most = 0, products = 0, squares = 0;
  bool finite = true;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    most = fabsf(v[i]) > fabsf(most) ? v[i] : most;
    finite = finite && isfinite(v[i]);
  }
  const float inverse = finite && fabsf(most) > 1e-30f ? -8.0f / most : 0.0f;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    const long code = inverse != 0 ? lrintf(v[i] * inverse) : 0;
    codes[i] = code > 7 ? 7 : (int32_t)code;
    products += v[i] * (float)codes[i];
    squares += (float)(codes[i] * codes[i]);
  }
  if (!finite) return NAN;
  return inverse != 0 ? products / squares : 0.0f;
}

void mb_kv_turn(float *v, uint32_t blocks) {
  const float scale = 0x1.6a09e6p-3f; /* 1 / sqrt(32) */
  for (uint32_t b = 0; b < blocks; b++, v += MB_KV_BLOCK) {
    for (uint32_t half = 1; half < MB_KV_BLOCK; half *= 2)
      for (uint32_t i = 0; i < MB_KV_BLOCK; i += 2 * half)
        for (uint32_t j = i; j < i + half; j++) {
          const float x = v[j], y = v[j + half];
          v[j] = x + y;
          v[j + half] = x - y;
        }
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++) v[i] *= scale;
  }
}

/* How many positions a layer keeps: position p lies in slot p % kept. */
static uint32_t kept_positions(const mb_session *session, uint32_t layer) {
  return session->model->layers[layer].window ? session->layout.ring : session->layout.room;
}

/* Where a layer's cache of one KV head begins, in positions. */
static size_t head_begin(const mb_session *session, uint32_t layer, uint32_t kv_head) {
  const mb_layout *layout = &session->layout;
  const mb_layer *l = &session->model->layers[layer];
  const size_t kv_heads = session->model->weights.config.kv_heads, room = layout->room;
  const size_t before =
      l->window ? layout->full_layers * room + l->windowed_before * (size_t)layout->ring : l->full_before * room;
  return before * kv_heads + (size_t)kv_head * kept_positions(session, layer);
}

/* A vector's place: position `at` of the whole cache. */
static void store_int8(const mb_session *session, const float *v, size_t at, uint8_t *cache, uint16_t *scales) {
  const uint32_t stride = session->layout.stride, head_dim = session->model->weights.config.head_dim;
  const uint32_t blocks = stride / MB_KV_BLOCK;
  int8_t *codes = (int8_t *)cache + at * stride;
  for (uint32_t i = 0; i < blocks; i++) {
    const uint32_t start = i * MB_KV_BLOCK, left = head_dim - start;
    scales[at * blocks + i] =
        mb_f32_to_f16(mb_kv_quantise(v + start, left < MB_KV_BLOCK ? left : MB_KV_BLOCK, codes + start));
  }
}

static void store_int4(const mb_session *session, const float *v, size_t at, uint8_t *cache, uint16_t *scales,
                       mb_int4_place place(size_t, uint32_t)) {
  const uint32_t head_dim = session->model->weights.config.head_dim, blocks = session->layout.stride / MB_KV_BLOCK;
  for (uint32_t b = 0; b < blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = head_dim - start;
    uint8_t *block = cache + mb_int4_block_at(blocks, at, b) * MB_INT4_BLOCK_BYTES;
    float values[MB_KV_BLOCK] = {0};
    int32_t codes[MB_KV_BLOCK];
    memcpy(values, v + start, (left < MB_KV_BLOCK ? left : MB_KV_BLOCK) * sizeof *v);
    mb_kv_turn(values, 1);
    scales[mb_int4_scale_at(blocks, at, b)] = mb_f32_to_f16(quantise_4_bits(values, codes));
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
      const mb_int4_place to = place(at, d);
      block[to.byte] =
          (uint8_t)((block[to.byte] & ~(15u << to.shift)) | (uint32_t)(codes[d] + MB_INT4_ZERO) << to.shift);
    }
  }
}

/* A key of 8 bits among a group's. */
static void store_key8(const mb_session *session, const float *v, size_t at, uint8_t *cache, uint16_t *scales) {
  const uint32_t head_dim = session->model->weights.config.head_dim, blocks = session->layout.stride / MB_KV_BLOCK;
  for (uint32_t b = 0; b < blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = head_dim - start;
    int8_t *block = (int8_t *)cache + mb_int4_block_at(blocks, at, b) * MB_KEY8_BLOCK_BYTES;
    int8_t codes[MB_KV_BLOCK] = {0};
    scales[mb_int4_scale_at(blocks, at, b)] =
        mb_f32_to_f16(mb_kv_quantise(v + start, left < MB_KV_BLOCK ? left : MB_KV_BLOCK, codes));
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++) block[mb_key8_byte(at, d)] = codes[d];
  }
}

static void store_f16(const mb_session *session, const float *v, size_t at, uint8_t *cache) {
  uint16_t *halves = (uint16_t *)(void *)cache + at * session->layout.stride;
  for (uint32_t i = 0; i < session->model->weights.config.head_dim; i++) halves[i] = mb_f32_to_f16(v[i]);
}

static void store_key(const mb_session *session, const float *key, size_t at) {
  const mb_buffers *b = &session->layout.buffers;
  if (!session->layout.kv_scaled)
    store_f16(session, key, at, b->keys);
  else if (!session->layout.grouped)
    store_int8(session, key, at, b->keys, b->key_scales);
  else if (session->layout.keys_int4)
    store_int4(session, key, at, b->keys, b->key_scales, mb_int4_key);
  else
    store_key8(session, key, at, b->keys, b->key_scales);
}

static void store_value(const mb_session *session, const float *value, size_t at) {
  const mb_buffers *b = &session->layout.buffers;
  if (!session->layout.kv_scaled)
    store_f16(session, value, at, b->values);
  else if (!session->layout.grouped)
    store_int8(session, value, at, b->values, b->value_scales);
  else
    store_int4(session, value, at, b->values, b->value_scales, mb_int4_value);
}

static size_t place_of(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position) {
  return head_begin(session, layer, kv_head) + position % kept_positions(session, layer);
}

void mb_kv_store(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, const float *key,
                 const float *value) {
  const size_t at = place_of(session, layer, kv_head, position);
  store_key(session, key, at);
  store_value(session, value, at);
}

void mb_kv_load_key(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, float *key) {
  const mb_buffers *buffers = &session->layout.buffers;
  const size_t at = place_of(session, layer, kv_head, position), stride = session->layout.stride;
  const uint32_t head_dim = session->model->weights.config.head_dim, blocks = session->layout.stride / MB_KV_BLOCK;
  if (!session->layout.kv_scaled) {
    const uint16_t *halves = (const uint16_t *)(const void *)buffers->keys + at * stride;
    for (uint32_t i = 0; i < head_dim; i++) key[i] = mb_f16_to_f32(halves[i]);
    return;
  }
  for (uint32_t b = 0; b < blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = head_dim - start, n = left < MB_KV_BLOCK ? left : MB_KV_BLOCK;
    if (!session->layout.grouped) {
      const int8_t *codes = (const int8_t *)buffers->keys + at * stride + start;
      const float scale = mb_f16_to_f32(buffers->key_scales[at * blocks + b]);
      for (uint32_t i = 0; i < n; i++) key[start + i] = (float)codes[i] * scale;
      continue;
    }
    const float scale = mb_f16_to_f32(buffers->key_scales[mb_int4_scale_at(blocks, at, b)]);
    if (!session->layout.keys_int4) {
      const int8_t *codes = (const int8_t *)buffers->keys + mb_int4_block_at(blocks, at, b) * MB_KEY8_BLOCK_BYTES;
      for (uint32_t i = 0; i < n; i++) key[start + i] = (float)codes[mb_key8_byte(at, i)] * scale;
      continue;
    }
    const uint8_t *block = buffers->keys + mb_int4_block_at(blocks, at, b) * MB_INT4_BLOCK_BYTES;
    float turned[MB_KV_BLOCK];
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++) turned[i] = (float)mb_int4_code(block, mb_int4_key(at, i)) * scale;
    mb_kv_turn(turned, 1);
    memcpy(key + start, turned, n * sizeof *key);
  }
}

/* A value's codes of one block of a 4-bit cache. */
static void copy_int4(uint8_t *to_block, size_t to, const uint8_t *from_block, size_t from) {
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    const mb_int4_place source = mb_int4_value(from, i), target = mb_int4_value(to, i);
    const uint32_t code = from_block[source.byte] >> source.shift & 15u;
    to_block[target.byte] = (uint8_t)((to_block[target.byte] & ~(15u << target.shift)) | code << target.shift);
  }
}

void mb_kv_move(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t from, uint32_t to,
                const float *key) {
  const mb_buffers *buffers = &session->layout.buffers;
  const mb_layout *layout = &session->layout;
  const size_t source = place_of(session, layer, kv_head, from), target = place_of(session, layer, kv_head, to);
  const uint32_t blocks = layout->stride / MB_KV_BLOCK;
  store_key(session, key, target);
  if (!layout->grouped) {
    memcpy(buffers->values + target * layout->value_bytes, buffers->values + source * layout->value_bytes,
           layout->value_bytes);
    if (layout->kv_scaled)
      memcpy(buffers->value_scales + target * blocks, buffers->value_scales + source * blocks,
             blocks * sizeof *buffers->value_scales);
    return;
  }
  for (uint32_t b = 0; b < blocks; b++) {
    copy_int4(buffers->values + mb_int4_block_at(blocks, target, b) * MB_INT4_BLOCK_BYTES, target,
              buffers->values + mb_int4_block_at(blocks, source, b) * MB_INT4_BLOCK_BYTES, source);
    buffers->value_scales[mb_int4_scale_at(blocks, target, b)] =
        buffers->value_scales[mb_int4_scale_at(blocks, source, b)];
  }
}

mb_kv_piece mb_kv_piece_at(const mb_session *session, uint32_t layer, uint32_t first, uint32_t end) {
  const uint32_t kept = kept_positions(session, layer), slot = first % kept;
  return (mb_kv_piece){slot, end - first < kept - slot ? end - first : kept - slot};
}

static mb_kv_head head(const mb_session *session, size_t at, uint32_t positions, const uint8_t *cache,
                       const uint16_t *scales) {
  const mb_layout *layout = &session->layout;
  const size_t stride = layout->stride;
  return (mb_kv_head){.values = cache + at * (layout->kv_scaled ? stride : 2 * stride),
                      .scales = layout->kv_scaled ? scales + at * (stride / MB_KV_BLOCK) : NULL,
                      .stride = layout->stride,
                      .positions = positions};
}

mb_kv_head mb_kv_keys(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_buffers *b = &session->layout.buffers;
  return head(session, head_begin(session, layer, kv_head) + piece.slot, piece.positions, b->keys, b->key_scales);
}

mb_kv_head mb_kv_values(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_buffers *b = &session->layout.buffers;
  return head(session, head_begin(session, layer, kv_head) + piece.slot, piece.positions, b->values, b->value_scales);
}

static mb_kv_groups groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece,
                           const uint8_t *cache, size_t vector_bytes, const uint16_t *scales) {
  const uint32_t blocks = session->layout.stride / MB_KV_BLOCK;
  const size_t at = head_begin(session, layer, kv_head) + piece.slot;
  return (mb_kv_groups){.codes = cache + at * vector_bytes,
                        .scales = scales + at * blocks,
                        .blocks = blocks,
                        .positions = mb_round_up(piece.positions, MB_KV_GROUP)};
}

mb_kv_groups mb_kv_key_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_buffers *b = &session->layout.buffers;
  return groups(session, layer, kv_head, piece, b->keys, session->layout.key_bytes, b->key_scales);
}

mb_kv_groups mb_kv_value_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_buffers *b = &session->layout.buffers;
  return groups(session, layer, kv_head, piece, b->values, session->layout.value_bytes, b->value_scales);
}

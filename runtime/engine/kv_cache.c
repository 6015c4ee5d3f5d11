/* The cache of one layer and KV head is one sequential stream, so that a query reads it forwards.
 * fp16: [position][stride]. Otherwise integers, with one fp16 scale per 32 values (the K of some models has outlier
 * channels; a scale per vector would drown the others): kernels/kv_layout.h. Queries are quantised to 8 bits in the
 * same way, so that scores are integer products. */
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
static float quantise_4_bits(const float v[MB_KV_BLOCK], int8_t codes[MB_KV_BLOCK]) {
  float most = 0, products = 0, squares = 0;
  bool finite = true;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    most = fabsf(v[i]) > fabsf(most) ? v[i] : most;
    finite = finite && isfinite(v[i]);
  }
  const float inverse = finite && fabsf(most) > 1e-30f ? -8.0f / most : 0.0f;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    const long code = inverse != 0 ? lrintf(v[i] * inverse) : 0;
    codes[i] = (int8_t)(code > 7 ? 7 : code);
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

static void write_code(bool int4, uint8_t *block, mb_kv_place place, int32_t code) {
  uint8_t *byte = block + place.byte;
  *byte = (uint8_t)(int4 ? (*byte & ~(15u << place.shift)) | (uint32_t)(code + MB_INT4_ZERO) << place.shift
                         : (uint32_t)code);
}

/* One vector to integers at position `at` of the whole cache. place: mb_kv_key or mb_kv_value. */
static void store_codes(const mb_session *session, const float *v, size_t at, uint8_t *cache, uint16_t *scales,
                        bool int4, mb_kv_place place(bool, size_t, uint32_t)) {
  const uint32_t head_dim = session->model->weights.config.head_dim, blocks = session->layout.stride / MB_KV_BLOCK;
  for (uint32_t b = 0; b < blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = head_dim - start, n = left < MB_KV_BLOCK ? left : MB_KV_BLOCK;
    uint8_t *block = cache + mb_kv_block_at(blocks, at, b) * mb_kv_block_bytes(int4);
    float values[MB_KV_BLOCK] = {0}, scale;
    int8_t codes[MB_KV_BLOCK];
    memcpy(values, v + start, n * sizeof *v);
    if (int4) mb_kv_turn(values, 1);
    scale = int4 ? quantise_4_bits(values, codes) : mb_kv_quantise(values, MB_KV_BLOCK, codes);
    scales[mb_kv_scale_at(blocks, at, b)] = mb_f32_to_f16(scale);
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++) write_code(int4, block, place(int4, at, d), codes[d]);
  }
}

static void store_f16(const mb_session *session, const float *v, size_t at, uint8_t *cache) {
  uint16_t *halves = (uint16_t *)(void *)cache + at * session->layout.stride;
  for (uint32_t i = 0; i < session->model->weights.config.head_dim; i++) halves[i] = mb_f32_to_f16(v[i]);
}

static void store_key(const mb_session *session, const float *key, size_t at) {
  const mb_buffers *b = &session->layout.buffers;
  if (session->layout.kv_scaled)
    store_codes(session, key, at, b->keys, b->key_scales, session->layout.keys_int4, mb_kv_key);
  else
    store_f16(session, key, at, b->keys);
}

static void store_value(const mb_session *session, const float *value, size_t at) {
  const mb_buffers *b = &session->layout.buffers;
  if (session->layout.kv_scaled)
    store_codes(session, value, at, b->values, b->value_scales, session->layout.values_int4, mb_kv_value);
  else
    store_f16(session, value, at, b->values);
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
  const bool int4 = session->layout.keys_int4;
  for (uint32_t b = 0; b < blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = head_dim - start, n = left < MB_KV_BLOCK ? left : MB_KV_BLOCK;
    const float scale = mb_f16_to_f32(buffers->key_scales[mb_kv_scale_at(blocks, at, b)]);
    const uint8_t *block = buffers->keys + mb_kv_block_at(blocks, at, b) * mb_kv_block_bytes(int4);
    float values[MB_KV_BLOCK];
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++)
      values[i] = (float)mb_kv_code(int4, block, mb_kv_key(int4, at, i)) * scale;
    if (int4) mb_kv_turn(values, 1);
    memcpy(key + start, values, n * sizeof *key);
  }
}

void mb_kv_move(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t from, uint32_t to,
                const float *key) {
  const mb_buffers *buffers = &session->layout.buffers;
  const mb_layout *layout = &session->layout;
  const size_t source = place_of(session, layer, kv_head, from), target = place_of(session, layer, kv_head, to);
  const uint32_t blocks = layout->stride / MB_KV_BLOCK;
  const bool int4 = layout->values_int4;
  store_key(session, key, target);
  if (!layout->kv_scaled) {
    memcpy(buffers->values + target * layout->value_bytes, buffers->values + source * layout->value_bytes,
           layout->value_bytes);
    return;
  }
  for (uint32_t b = 0; b < blocks; b++) {
    const uint8_t *old = buffers->values + mb_kv_block_at(blocks, source, b) * mb_kv_block_bytes(int4);
    uint8_t *new = buffers->values + mb_kv_block_at(blocks, target, b) * mb_kv_block_bytes(int4);
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++)
      write_code(int4, new, mb_kv_value(int4, target, d), mb_kv_code(int4, old, mb_kv_value(int4, source, d)));
    buffers->value_scales[mb_kv_scale_at(blocks, target, b)] = buffers->value_scales[mb_kv_scale_at(blocks, source, b)];
  }
}

mb_kv_piece mb_kv_piece_at(const mb_session *session, uint32_t layer, uint32_t first, uint32_t end) {
  const uint32_t kept = kept_positions(session, layer), slot = first % kept;
  return (mb_kv_piece){slot, end - first < kept - slot ? end - first : kept - slot};
}

static mb_kv_head head(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece,
                       const uint8_t *cache) {
  const size_t stride = session->layout.stride, at = head_begin(session, layer, kv_head) + piece.slot;
  return (mb_kv_head){.values = (const uint16_t *)(const void *)cache + at * stride,
                      .stride = session->layout.stride,
                      .positions = piece.positions};
}

mb_kv_head mb_kv_keys(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  return head(session, layer, kv_head, piece, session->layout.buffers.keys);
}

mb_kv_head mb_kv_values(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  return head(session, layer, kv_head, piece, session->layout.buffers.values);
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

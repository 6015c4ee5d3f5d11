/* The cache of one layer and KV head is one sequential stream, so that a query reads it forwards.
 * fp16: [position][stride]. Otherwise integers, with one fp16 scale per 32 values (the K of some models has outlier
 * channels; a scale per vector would drown the others): kernels/kv_layout.h. Queries are quantised to 8 bits in the
 * same way, so that scores are integer products. */
#include "engine/kv_cache.h"

#include <string.h>

#include "base/half.h"
#include "engine/config.h"

#define INLINE static inline __attribute__((always_inline))

/* How many positions a layer keeps, and which is the first of them: position p lies in slot (p - first) % kept. */
static uint32_t kept_positions(const mb_session *session, uint32_t layer) {
  return session->model->layers[layer].window ? session->layout.ring : session->layout.room;
}

static uint32_t first_position(const mb_session *session) { return session->layout.keys_int4 ? MB_KV_TILE : 0; }

/* Where a layer's cache of one KV head begins, in positions. */
static size_t head_begin(const mb_session *session, uint32_t layer, uint32_t kv_head) {
  const mb_layout *layout = &session->layout;
  const mb_layer *l = &session->model->layers[layer];
  const size_t kv_heads = session->model->weights.config.kv_heads, room = layout->room;
  const size_t before =
      l->window ? layout->full_layers * room + l->windowed_before * (size_t)layout->ring : l->full_before * room;
  return before * kv_heads + (size_t)kv_head * kept_positions(session, layer);
}

/* The same of int4's positions in 8 bits. */
static size_t fine_begin(const mb_session *session, uint32_t layer, uint32_t kv_head) {
  const mb_layout *layout = &session->layout;
  const mb_layer *l = &session->model->layers[layer];
  const size_t before = l->window ? layout->full_layers + l->windowed_before : l->full_before;
  return (before * session->model->weights.config.kv_heads + kv_head) * layout->fine_room;
}

static size_t place_of(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position) {
  return head_begin(session, layer, kv_head) + (position - first_position(session)) % kept_positions(session, layer);
}

static uint32_t fine_slot(const mb_layout *layout, uint32_t position) {
  return position < MB_KV_TILE ? position : MB_KV_TILE + (position - MB_KV_TILE) % layout->fine_ring;
}

/* Keys, or values, as integers. */
typedef struct {
  uint8_t *codes;
  uint16_t *scales;
  uint32_t blocks, head_dim;
  bool keys, int4;
  const mb_kernels *kernels;
} integers;

static integers integers_of(const mb_session *session, const mb_kv_part *part, bool keys, bool int4) {
  return (integers){.codes = keys ? part->keys : part->values,
                    .scales = keys ? part->key_scales : part->value_scales,
                    .blocks = session->layout.stride / MB_KV_BLOCK,
                    .head_dim = session->model->weights.config.head_dim,
                    .keys = keys,
                    .int4 = int4,
                    .kernels = session->model->kernels};
}

static integers keys_of(const mb_session *session, const mb_kv_part *part, bool int4) {
  return integers_of(session, part, true, int4);
}

static integers values_of(const mb_session *session, const mb_kv_part *part, bool int4) {
  return integers_of(session, part, false, int4);
}

INLINE mb_kv_place place_in(bool keys, bool int4, size_t position, uint32_t d) {
  return keys ? mb_kv_key(int4, position, d) : mb_kv_value(int4, position, d);
}

INLINE void write_code(bool int4, uint8_t *block, mb_kv_place place, int32_t code) {
  uint8_t *byte = block + place.byte;
  *byte = (uint8_t)(int4 ? (*byte & ~(15u << place.shift)) | (uint32_t)(code + MB_INT4_ZERO) << place.shift
                         : (uint32_t)code);
}

INLINE void store_block(const integers *to, size_t at, uint32_t b, const int8_t *codes, bool keys, bool int4) {
  uint8_t *block = to->codes + mb_kv_block_at(to->blocks, at, b) * mb_kv_block_bytes(int4);
  const uint32_t apart = keys ? 4 : 16; /* the two dimensions whose halves of 4 bits make a byte: kv_layout.h */
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
    const mb_kv_place place = place_in(keys, int4, at, d);
    if (!int4)
      block[place.byte] = (uint8_t)codes[d];
    else if (place.shift == 0)
      block[place.byte] = (uint8_t)((codes[d] + MB_INT4_ZERO) | (codes[d + apart] + MB_INT4_ZERO) << 4);
  }
}

INLINE void load_block(const integers *from, size_t at, uint32_t b, float v[MB_KV_BLOCK], bool keys, bool int4) {
  const float scale = mb_f16_to_f32(from->scales[mb_kv_scale_at(from->blocks, at, b)]);
  const uint8_t *block = from->codes + mb_kv_block_at(from->blocks, at, b) * mb_kv_block_bytes(int4);
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) v[d] = (float)mb_kv_code(int4, block, place_in(keys, int4, at, d)) * scale;
}

/* The four kinds of blocks, each with places that are constants. */
#define FOR_KIND(x, call)                         \
  if ((x)->keys && (x)->int4) call(true, true);   \
  if ((x)->keys && !(x)->int4) call(true, false); \
  if (!(x)->keys && (x)->int4) call(false, true); \
  if (!(x)->keys && !(x)->int4) call(false, false)

/* One vector to integers at position `at` of all of them. */
static void store_codes(const integers *to, size_t at, const float *v) {
  enum { MOST_BLOCKS = MB_MOST_HEAD_DIM / MB_KV_BLOCK };
  _Alignas(64) float values[MB_MOST_HEAD_DIM];
  float scales[MOST_BLOCKS];
  int8_t codes[MB_MOST_HEAD_DIM];
  int32_t sums[MOST_BLOCKS]; /* which the cache does not need */
  memcpy(values, v, to->head_dim * sizeof *v);
  memset(values + to->head_dim, 0, (to->blocks * MB_KV_BLOCK - to->head_dim) * sizeof *v);
  if (to->int4) {
    to->kernels->turn(values, to->blocks);
    for (uint32_t b = 0; b < to->blocks; b++)
      scales[b] = to->kernels->kv_codes_4(values + b * MB_KV_BLOCK, codes + b * MB_KV_BLOCK);
  } else {
    to->kernels->kv_codes_8(values, to->blocks, codes, scales, sums);
  }
  for (uint32_t b = 0; b < to->blocks; b++) {
    to->scales[mb_kv_scale_at(to->blocks, at, b)] = mb_f32_to_f16(scales[b]);
#define STORE(keys, int4) store_block(to, at, b, codes + b * MB_KV_BLOCK, keys, int4)
    FOR_KIND(to, STORE);
#undef STORE
  }
}

static void load_codes(const integers *from, size_t at, float *v) {
  for (uint32_t b = 0; b < from->blocks; b++) {
    const uint32_t start = b * MB_KV_BLOCK, left = from->head_dim - start, n = left < MB_KV_BLOCK ? left : MB_KV_BLOCK;
    float values[MB_KV_BLOCK];
#define LOAD(keys, int4) load_block(from, at, b, values, keys, int4)
    FOR_KIND(from, LOAD);
#undef LOAD
    if (from->int4) from->kernels->turn(values, 1);
    memcpy(v + start, values, n * sizeof *v);
  }
}

static void store_f16(const mb_session *session, const float *v, size_t at, uint8_t *cache) {
  uint16_t *halves = (uint16_t *)(void *)cache + at * session->layout.stride;
  for (uint32_t i = 0; i < session->model->weights.config.head_dim; i++) halves[i] = mb_f32_to_f16(v[i]);
}

static void store_key(const mb_session *session, const float *key, size_t at) {
  const mb_kv_part *cache = &session->layout.buffers.cache;
  const integers keys = keys_of(session, cache, false);
  if (session->layout.kv_scaled)
    store_codes(&keys, at, key);
  else
    store_f16(session, key, at, cache->keys);
}

void mb_kv_store(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, const float *key,
                 const float *value) {
  const mb_layout *layout = &session->layout;
  if (layout->keys_int4) {
    const integers keys = keys_of(session, &layout->buffers.fine, false);
    const integers values = values_of(session, &layout->buffers.fine, false);
    const size_t at = fine_begin(session, layer, kv_head) + fine_slot(layout, position);
    store_codes(&keys, at, key);
    store_codes(&values, at, value);
    return;
  }
  const size_t at = place_of(session, layer, kv_head, position);
  store_key(session, key, at);
  const integers values = values_of(session, &layout->buffers.cache, layout->values_int4);
  if (layout->kv_scaled)
    store_codes(&values, at, value);
  else
    store_f16(session, value, at, layout->buffers.cache.values);
}

void mb_kv_store_coarse(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position,
                        const float *key, const float *value) {
  const integers keys = keys_of(session, &session->layout.buffers.cache, true);
  const integers values = values_of(session, &session->layout.buffers.cache, true);
  const size_t at = place_of(session, layer, kv_head, position);
  store_codes(&keys, at, key);
  store_codes(&values, at, value);
}

void mb_kv_make_coarse(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t first, uint32_t end) {
  const mb_layout *layout = &session->layout;
  const mb_kv_part *fine = &layout->buffers.fine, *to = &layout->buffers.cache;
  const uint32_t stride = layout->stride, blocks = stride / MB_KV_BLOCK;
  for (uint32_t p = first; p < end; p += MB_KV_GROUP) { /* a ring's end is the end of a group */
    const size_t at = fine_begin(session, layer, kv_head) + fine_slot(layout, p);
    const size_t place = place_of(session, layer, kv_head, p);
    const mb_kv_groups keys = {fine->keys + at * stride, fine->key_scales + at * blocks, blocks, MB_KV_GROUP};
    const mb_kv_groups values = {fine->values + at * stride, fine->value_scales + at * blocks, blocks, MB_KV_GROUP};
    const mb_kernels *kernels = session->model->kernels;
    kernels->coarsen(&keys, true, to->keys + place * layout->key_bytes, to->key_scales + place * blocks);
    kernels->coarsen(&values, false, to->values + place * layout->value_bytes, to->value_scales + place * blocks);
  }
}

size_t mb_kv_ring_bytes(const mb_layout *layout) {
  return (size_t)layout->fine_ring * 2 * (layout->stride + layout->stride / MB_KV_BLOCK * sizeof(uint16_t));
}

/* A copy of the ring: keys, values and their scales, one after the other. */
static mb_kv_part parts_of_ring(const mb_layout *layout, uint8_t *ring) {
  const size_t codes = (size_t)layout->fine_ring * layout->stride;
  uint16_t *scales = (uint16_t *)(void *)(ring + 2 * codes);
  return (mb_kv_part){ring, ring + codes, scales, scales + codes / MB_KV_BLOCK};
}

void mb_kv_copy_ring(const mb_session *session, uint32_t layer, uint32_t kv_head, uint8_t *ring) {
  const mb_layout *layout = &session->layout;
  const mb_kv_part *fine = &layout->buffers.fine, to = parts_of_ring(layout, ring);
  const size_t stride = layout->stride, blocks = stride / MB_KV_BLOCK, kept = layout->fine_ring;
  const size_t at = fine_begin(session, layer, kv_head) + MB_KV_TILE;
  memcpy(to.keys, fine->keys + at * stride, kept * stride);
  memcpy(to.values, fine->values + at * stride, kept * stride);
  memcpy(to.key_scales, fine->key_scales + at * blocks, kept * blocks * sizeof *to.key_scales);
  memcpy(to.value_scales, fine->value_scales + at * blocks, kept * blocks * sizeof *to.value_scales);
}

void mb_kv_load_int4(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position,
                     uint32_t coarse_end, uint8_t *ring, float *key, float *value) {
  const mb_layout *layout = &session->layout;
  const mb_buffers *b = &layout->buffers;
  const mb_kv_part copy = parts_of_ring(layout, ring);
  const bool first = position < MB_KV_TILE, coarse = !first && position < coarse_end;
  const mb_kv_part *part = first ? &b->fine : coarse ? &b->cache : &copy;
  const size_t at = first    ? fine_begin(session, layer, kv_head) + position
                    : coarse ? place_of(session, layer, kv_head, position)
                             : fine_slot(layout, position) - MB_KV_TILE;
  const integers keys = keys_of(session, part, coarse), values = values_of(session, part, coarse);
  load_codes(&keys, at, key);
  load_codes(&values, at, value);
}

void mb_kv_load_key(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, float *key) {
  const mb_kv_part *cache = &session->layout.buffers.cache;
  const size_t at = place_of(session, layer, kv_head, position), stride = session->layout.stride;
  const integers keys = keys_of(session, cache, false);
  if (session->layout.kv_scaled) {
    load_codes(&keys, at, key);
    return;
  }
  const uint16_t *halves = (const uint16_t *)(const void *)cache->keys + at * stride;
  for (uint32_t i = 0; i < session->model->weights.config.head_dim; i++) key[i] = mb_f16_to_f32(halves[i]);
}

void mb_kv_move(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t from, uint32_t to,
                const float *key) {
  const mb_layout *layout = &session->layout;
  const mb_kv_part *cache = &layout->buffers.cache;
  const size_t source = place_of(session, layer, kv_head, from), target = place_of(session, layer, kv_head, to);
  const uint32_t blocks = layout->stride / MB_KV_BLOCK;
  const bool int4 = layout->values_int4;
  store_key(session, key, target);
  if (!layout->kv_scaled) {
    memcpy(cache->values + target * layout->value_bytes, cache->values + source * layout->value_bytes,
           layout->value_bytes);
    return;
  }
  for (uint32_t b = 0; b < blocks; b++) {
    const uint8_t *old = cache->values + mb_kv_block_at(blocks, source, b) * mb_kv_block_bytes(int4);
    uint8_t *new = cache->values + mb_kv_block_at(blocks, target, b) * mb_kv_block_bytes(int4);
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++)
      write_code(int4, new, mb_kv_value(int4, target, d), mb_kv_code(int4, old, mb_kv_value(int4, source, d)));
    cache->value_scales[mb_kv_scale_at(blocks, target, b)] = cache->value_scales[mb_kv_scale_at(blocks, source, b)];
  }
}

mb_kv_piece mb_kv_piece_at(const mb_session *session, uint32_t layer, uint32_t first, uint32_t end,
                           uint32_t coarse_end) {
  const mb_layout *layout = &session->layout;
  const bool int4 = layout->keys_int4, fine = int4 && (first < MB_KV_TILE || first >= coarse_end);
  const uint32_t kept = fine ? layout->fine_room : kept_positions(session, layer);
  const uint32_t slot = fine ? fine_slot(layout, first) : (first - first_position(session)) % kept;
  uint32_t most = end - first; /* up to where the other form begins */
  if (int4 && first < MB_KV_TILE && most > MB_KV_TILE - first) most = MB_KV_TILE - first;
  if (int4 && !fine && most > coarse_end - first) most = coarse_end - first;
  return (mb_kv_piece){slot, most < kept - slot ? most : kept - slot, fine};
}

static mb_kv_head head(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece,
                       const uint8_t *cache) {
  const size_t stride = session->layout.stride, at = head_begin(session, layer, kv_head) + piece.slot;
  return (mb_kv_head){.values = (const uint16_t *)(const void *)cache + at * stride,
                      .stride = session->layout.stride,
                      .positions = piece.positions};
}

mb_kv_head mb_kv_keys(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  return head(session, layer, kv_head, piece, session->layout.buffers.cache.keys);
}

mb_kv_head mb_kv_values(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  return head(session, layer, kv_head, piece, session->layout.buffers.cache.values);
}

static mb_kv_groups groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece,
                           const uint8_t *codes, size_t vector_bytes, const uint16_t *scales) {
  const uint32_t blocks = session->layout.stride / MB_KV_BLOCK;
  const size_t begin = piece.fine ? fine_begin(session, layer, kv_head) : head_begin(session, layer, kv_head);
  return (mb_kv_groups){.codes = codes + (begin + piece.slot) * vector_bytes,
                        .scales = scales + (begin + piece.slot) * blocks,
                        .blocks = blocks,
                        .positions = mb_round_up(piece.positions, MB_KV_GROUP)};
}

mb_kv_groups mb_kv_key_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_layout *layout = &session->layout;
  const mb_kv_part *part = piece.fine ? &layout->buffers.fine : &layout->buffers.cache;
  return groups(session, layer, kv_head, piece, part->keys, piece.fine ? layout->stride : layout->key_bytes,
                part->key_scales);
}

mb_kv_groups mb_kv_value_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece) {
  const mb_layout *layout = &session->layout;
  const mb_kv_part *part = piece.fine ? &layout->buffers.fine : &layout->buffers.cache;
  return groups(session, layer, kv_head, piece, part->values, piece.fine ? layout->stride : layout->value_bytes,
                part->value_scales);
}

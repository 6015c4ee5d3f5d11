/* Keys and values of 8 bits to 4 bits, in plain C with the vectors that gcc and clang know: one text for all tables,
 * each compiled for its processor. A lane is a position, so that nothing is added up across a register.
 *
 * A fragment of scalar.c, avx2.c, neon.c and neon_dotprod.c. It defines coarsen(), the table's entry. */
#ifndef MB_KERNELS_COARSEN_IMPL_H
#define MB_KERNELS_COARSEN_IMPL_H

#include <string.h>

#include "kernels/kernels.h"
#include "kernels/quantise.h"

#define LANES 8 /* positions at once, of a group's */

typedef float float_lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t word_lanes __attribute__((vector_size(4 * LANES)));
typedef uint64_t pair_lanes __attribute__((vector_size(4 * LANES)));

/* A block of some positions, dimension by dimension. */
typedef float_lanes lane_values[MB_KV_BLOCK];
typedef int_lanes lane_codes[MB_KV_BLOCK];

static inline void unpack_keys(const uint8_t *block, uint32_t first, lane_codes codes) {
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 4) {
    word_lanes fours;
    memcpy(&fours, block + mb_kv_key(false, first, d).byte, sizeof fours);
    for (uint32_t j = 0; j < 4; j++) codes[d + j] = (int_lanes)(fours << (24 - 8 * j)) >> 24;
  }
}

static inline void unpack_values(const uint8_t *block, uint32_t first, lane_codes codes) {
  const word_lanes left = {24, 16, 8, 0, 24, 16, 8, 0};
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
    uint32_t a, b; /* four positions each */
    memcpy(&a, block + mb_kv_value(false, first, d).byte, sizeof a);
    memcpy(&b, block + mb_kv_value(false, first + 4, d).byte, sizeof b);
    const word_lanes fours = {a, a, a, a, b, b, b, b};
    codes[d] = (int_lanes)(fours << left) >> 24;
  }
}

/* turn_stage of turn-impl.h, every position by itself. */
static inline void turn_lanes_stage(const lane_values in, lane_values out) {
  for (uint32_t d = 0; d < MB_KV_BLOCK / 2; d++) {
    out[d] = in[2 * d] + in[2 * d + 1];
    out[d + MB_KV_BLOCK / 2] = in[2 * d] - in[2 * d + 1];
  }
}

static inline void turn_lanes(lane_values v) {
  lane_values a, b;
  turn_lanes_stage(v, a);
  turn_lanes_stage(a, b);
  turn_lanes_stage(b, a);
  turn_lanes_stage(a, b);
  turn_lanes_stage(b, a);
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) v[d] = a[d] * MB_TURN_SCALE;
}

/* kv_codes_4, every position by itself; the codes have MB_INT4_ZERO added. */
static inline void codes_4_of_lanes(const lane_values v, lane_codes codes, float scales[LANES]) {
  int_lanes most = {0}, largest = {0}, squares = {0}; /* most: the first of those that are equally large, as bits */
  float_lanes products = {0};
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
    const int_lanes bits = (int_lanes)v[d], magnitude = bits & 0x7fffffff, larger = magnitude > largest;
    most = (bits & larger) | (most & ~larger);
    largest = (magnitude & larger) | (largest & ~larger);
  }
  const int_lanes finite = largest < (int32_t)MB_INFINITY_BITS, some = (float_lanes)largest > 1e-30f;
  const float_lanes inverse = (float_lanes)((int_lanes)(-8.0f / (float_lanes)most) & some);
  for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
    const word_lanes rounded = (word_lanes)(v[d] * inverse + MB_ROUND_TO_INTEGER);
    const int_lanes code = (int_lanes)(rounded - (uint32_t)MB_ROUND_TO_INTEGER_BITS) & finite, most_code = code > 7;
    codes[d] = (code & ~most_code) | (most_code & 7);
    squares += codes[d] * codes[d];
    products += v[d] * __builtin_convertvector(codes[d], float_lanes);
    codes[d] += MB_INT4_ZERO;
  }
  const int_lanes scale = (int_lanes)(products / __builtin_convertvector(squares, float_lanes)) & some;
  const int_lanes all = (scale & finite) | (~finite & (int32_t)MB_NAN_BITS);
  memcpy(scales, &all, sizeof all);
}

static inline void pack_keys(const lane_codes codes, uint8_t *block, uint32_t first) {
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 8) {
    int_lanes fours = {0};
    for (uint32_t j = 0; j < 4; j++) fours |= (codes[d + j] | codes[d + 4 + j] << 4) << (8 * j);
    memcpy(block + mb_kv_key(true, first, d).byte, &fours, sizeof fours);
  }
}

static inline void pack_values(const lane_codes codes, uint8_t *block, uint32_t first) {
  for (uint32_t d = 0; d < MB_KV_BLOCK / 2; d++) {
    const pair_lanes bytes = (pair_lanes)(codes[d] | codes[d + MB_KV_BLOCK / 2] << 4);
    uint64_t pairs[LANES / 2]; /* in the low 16 bits, of two positions each */
    const pair_lanes both = bytes | bytes >> 24;
    memcpy(pairs, &both, sizeof pairs);
    for (uint32_t i = 0; i < LANES / 2; i++) {
      const uint16_t pair = (uint16_t)pairs[i];
      memcpy(block + mb_kv_value(true, first + 2 * i, d).byte, &pair, sizeof pair);
    }
  }
}

static inline void coarsen_block(const uint8_t *from, const uint16_t *from_scales, bool keys, uint8_t *to,
                                 uint16_t *to_scales) {
  for (uint32_t first = 0; first < MB_KV_GROUP; first += LANES) {
    lane_values v;
    lane_codes codes;
    float scales[LANES];
    float_lanes scale;
    if (keys)
      unpack_keys(from, first, codes);
    else
      unpack_values(from, first, codes);
    for (uint32_t p = 0; p < LANES; p++) scales[p] = mb_f16_to_f32(from_scales[first + p]);
    memcpy(&scale, scales, sizeof scale);
    for (uint32_t d = 0; d < MB_KV_BLOCK; d++) v[d] = __builtin_convertvector(codes[d], float_lanes) * scale;
    turn_lanes(v);
    codes_4_of_lanes(v, codes, scales);
    for (uint32_t p = 0; p < LANES; p++) to_scales[first + p] = mb_f32_to_f16(scales[p]);
    if (keys)
      pack_keys(codes, to, first);
    else
      pack_values(codes, to, first);
  }
}

static void coarsen(const mb_kv_groups *fine, bool keys, uint8_t *codes, uint16_t *scales) {
  for (uint32_t b = 0; b < fine->positions / MB_KV_GROUP * fine->blocks; b++)
    coarsen_block(fine->codes + b * mb_kv_block_bytes(false), fine->scales + b * MB_KV_GROUP, keys,
                  codes + b * mb_kv_block_bytes(true), scales + b * MB_KV_GROUP);
}

#undef LANES

#endif

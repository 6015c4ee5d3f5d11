/* Attention over a KV cache of integers, NEON: a register is 4 of a group's positions, or 4 dimensions.
 *
 * A fragment of neon.c and neon_dotprod.c; attention_groups-impl.h says what it defines. Define before it is included,
 * as for neon_multiply-impl.h:
 *   quad, quad_zero(), quad_dot(s, codes, x)      sums of four neighbouring products, four times
 *   quad_sums_zero(), quad_add(sums, s), quad_rows(sums)
 *   STEPS(largest)                                how many quad_dot with codes up to that a quad holds */
#ifndef MB_KERNELS_NEON_GROUPS_IMPL_H
#define MB_KERNELS_NEON_GROUPS_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/quantise.h"

/* A function of a constant number of rows, so that its accumulators are registers. */
#define FOR_ROWS(n, call) \
  case n: {               \
    enum { ROWS = n };    \
    call;                 \
    break;                \
  }
#if defined(__aarch64__)
#define GROUP_ROWS 4
#define FOR_GROUP_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call) FOR_ROWS(3, call) FOR_ROWS(4, call)
#else
#define GROUP_ROWS 2
#define FOR_GROUP_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call)
#endif
#define SCORE_GROUPS 1
#define TABLE_FUNCTION(name) static void name

MB_INLINE void fetch_group(const void *p, size_t bytes) {
  (void)p; /* ARM's cores fetch ahead by themselves */
  (void)bytes;
}

#include "kernels/attention_groups-impl.h"

/* 16 codes: bytes, or halves of 16 bytes. */
MB_INLINE int8x16_t load_codes(const uint8_t *p, bool int4, bool high) {
  const uint8x16_t bytes = vld1q_u8(p);
  if (!int4) return vreinterpretq_s8_u8(bytes);
  const uint8x16_t half = high ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15));
  return vsubq_s8(vreinterpretq_s8_u8(half), vdupq_n_s8(MB_INT4_ZERO));
}

/* Sums of products, four for each row, of which a quad holds only so many. */
typedef struct {
  quad parts[GROUP_ROWS];
  quad_sums sums[GROUP_ROWS];
} quads;

MB_INLINE void clear_quads(quads *s, uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++) s->parts[r] = quad_zero();
  for (uint32_t r = 0; r < rows; r++) s->sums[r] = quad_sums_zero();
}

MB_INLINE void flush_quads(quads *s, uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++) {
    s->sums[r] = quad_add(s->sums[r], s->parts[r]);
    s->parts[r] = quad_zero();
  }
}

/* Adds the products of 16 codes with x[r * stride .. + 3] of every row. step: how many such calls there were before. */
MB_INLINE void add_quads(quads *s, int8x16_t codes, const int8_t *x, size_t stride, uint32_t rows, uint32_t step,
                         bool int4) {
  for (uint32_t r = 0; r < rows; r++) s->parts[r] = quad_dot(s->parts[r], codes, broadcast_4(x + r * stride));
  if ((step + 1) % STEPS(int4 ? 15 : 127) == 0) flush_quads(s, rows);
}

/* Four positions of a group. keys: the first of them. */
MB_INLINE void score_4(const some_queries *q, const uint8_t *keys, const uint16_t *key_scales, float *scores,
                       size_t scores_stride, uint32_t rows, bool int4) {
  const size_t stride = (size_t)q->blocks * MB_KV_BLOCK;
  float32x4_t totals[GROUP_ROWS];
  for (uint32_t r = 0; r < rows; r++) totals[r] = vdupq_n_f32(0);
  for (uint32_t b = 0; b < q->blocks; b++, key_scales += MB_KV_GROUP) {
    const int8_t *x = q->codes + b * MB_KV_BLOCK;
    quads s;
    clear_quads(&s, rows);
    for (uint32_t d = 0; d < MB_KV_BLOCK; d += 8, x += 8) {
      add_quads(&s, load_codes(keys, int4, false), x, stride, rows, d / 4, int4);
      add_quads(&s, load_codes(int4 ? keys : keys + 64, int4, true), x + 4, stride, rows, d / 4 + 1, int4);
      keys += int4 ? 64 : 128;
    }
    flush_quads(&s, rows);
    const float32x4_t key_scale = load_4_f16(key_scales);
    for (uint32_t r = 0; r < rows; r++) {
      const float32x4_t scale = vmulq_f32(vdupq_n_f32(q->scales[r * q->blocks + b]), key_scale);
      totals[r] = vaddq_f32(totals[r], vmulq_f32(vcvtq_f32_s32(quad_rows(s.sums[r])), scale));
    }
  }
  for (uint32_t r = 0; r < rows; r++) vst1q_f32(scores + r * scores_stride, totals[r]);
}

MB_INLINE void score_groups(const some_queries *q, const uint8_t *keys, const uint16_t *key_scales, float *scores,
                            size_t scores_stride, uint32_t rows, uint32_t groups, bool int4) {
  (void)groups;
  for (uint32_t p = 0; p < MB_KV_GROUP; p += 4)
    score_4(q, keys + 4 * p, key_scales + p, scores + p, scores_stride, rows, int4);
}

MB_INLINE void load_16_scales(const uint16_t *halves, float *scales) {
  for (int i = 0; i < MB_KV_GROUP; i += 4) vst1q_f32(scales + i, load_4_f16(halves + i));
}

MB_INLINE uint32_t largest_of_4(uint32x4_t v) {
  uint32x2_t m = vmax_u32(vget_low_u32(v), vget_high_u32(v));
  m = vpmax_u32(m, m);
  return vget_lane_u32(m, 0);
}

MB_INLINE bool weigh_positions(const float *terms, float limit, const float *value_scales, uint32_t positions,
                               tile_weights *tile, uint32_t row, bool int4) {
  float scaled[MB_KV_TILE];
  uint32x4_t most = vdupq_n_u32(0), large = most;
  for (uint32_t i = 0; i < positions; i += 4) {
    const float32x4_t term = vld1q_f32(terms + i);
    const uint32x4_t unseen = vceqq_f32(term, vdupq_n_f32(0));
    const uint32x4_t product = vreinterpretq_u32_f32(vmulq_f32(term, vld1q_f32(value_scales + i)));
    const uint32x4_t seen = vbicq_u32(product, unseen);
    vst1q_f32(scaled + i, vreinterpretq_f32_u32(seen));
    most = vmaxq_u32(most, vandq_u32(seen, vdupq_n_u32(0x7fffffff)));
    large = vorrq_u32(large, vcgtq_f32(term, vdupq_n_f32(limit)));
  }
  const bool fine = largest_of_4(large) != 0;
  const mb_group_scale s = mb_scale_of_weights(largest_of_4(most), fine);
  const float32x4_t inverse = vdupq_n_f32(s.inverse);
  for (uint32_t i = 0; i < positions; i += 8) {
    const int16x8_t codes = vcombine_s16(quantise_4(scaled + i, inverse), quantise_4(scaled + i + 4, inverse));
    const int16x8_t high = fine ? vshrq_n_s16(codes, 7) : vdupq_n_s16(0);
    vst1_s8(tile->codes[0][row] + i, vmovn_s16(fine ? vandq_s16(codes, vdupq_n_s16(127)) : codes));
    vst1_s8(tile->codes[1][row] + i, vmovn_s16(high));
  }
  (void)int4; /* codes have their sign here, so that no sum is needed */
  tile->scales[row] = s.scale;
  return fine;
}

/* The sums of 4 dimensions' products with one part of a tile's weights. values: of the dimensions' first positions. */
MB_INLINE void add_tile(quads *s, const int8_t (*weights)[MB_KV_TILE], const uint8_t *values, size_t group_bytes,
                        uint32_t positions, bool high, uint32_t rows, bool int4) {
  clear_quads(s, rows);
  for (uint32_t p = 0; p < positions; p += MB_KV_GROUP, values += group_bytes)
    for (uint32_t i = 0; i < MB_KV_GROUP / 4; i++) /* 4 bits: a quad holds the whole tile's 16 steps */
      add_quads(s, load_codes(values + 64 * i, int4, high), weights[0] + p + 4 * i, MB_KV_TILE, rows, i, int4);
  flush_quads(s, rows);
}

MB_INLINE void mix_tile(const tile_weights *tile, const uint8_t *values, size_t group_bytes, uint32_t positions,
                        float *out, size_t stride, uint32_t first, uint32_t rows, bool fine, bool int4) {
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 4) {
    const bool high = d >= 16;
    const uint8_t *v = values + d % 16 * 4 + (high && !int4 ? MB_KV_GROUP * 16 : 0);
    int32x4_t sums[GROUP_ROWS];
    quads s;
    for (uint32_t r = 0; r < rows; r++) sums[r] = vdupq_n_s32(0);
    if (fine) {
      add_tile(&s, tile->codes[1] + first, v, group_bytes, positions, high, rows, int4);
      for (uint32_t r = 0; r < rows; r++) sums[r] = vshlq_n_s32(quad_rows(s.sums[r]), 7);
    }
    add_tile(&s, tile->codes[0] + first, v, group_bytes, positions, high, rows, int4);
    for (uint32_t r = 0; r < rows; r++) {
      const float32x4_t sum = vcvtq_f32_s32(vaddq_s32(sums[r], quad_rows(s.sums[r])));
      float *to = out + r * stride + d;
      vst1q_f32(to, vaddq_f32(vld1q_f32(to), vmulq_f32(sum, vdupq_n_f32(tile->scales[first + r]))));
    }
  }
}

#endif

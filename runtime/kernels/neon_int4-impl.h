/* Attention over the 4-bit KV cache, NEON. The queries that meet the same keys share what is loaded and unpacked.
 *
 * A fragment of neon.c and neon_dotprod.c. Define before it is included, as for neon_multiply-impl.h:
 *   quad, quad_zero(), quad_dot(s, codes, x)      sums of four neighbouring products for four positions
 *   quad_sums_zero(), quad_add(sums, s), quad_rows(sums)
 *   STEPS(largest)                                how many quad_dot with codes up to that a quad holds
 * It defines scores_int4(), scores_key8() and mix_int4(), the table's entries. */
#ifndef MB_KERNELS_NEON_INT4_IMPL_H
#define MB_KERNELS_NEON_INT4_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/quantise.h"

#if defined(__aarch64__)
#define SCORE_ROWS 4 /* queries that share a load of the keys of four positions */
#define MIX_ROWS 4   /* queries that share the values, with 16 dimensions of each in 16 accumulators */
#else
#define SCORE_ROWS 2
#define MIX_ROWS 2
#endif

/* A function of a constant number of rows, so that its accumulators are registers. */
#define FOR_ROWS(n, call) \
  case n: {               \
    enum { ROWS = n };    \
    call;                 \
    break;                \
  }
#if SCORE_ROWS > 2
#define FOR_SOME_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call) FOR_ROWS(3, call) FOR_ROWS(4, call)
#else
#define FOR_SOME_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call)
#endif

/* Half of the codes of 16 bytes, as signed numbers. */
MB_INLINE int8x16_t low_codes(uint8x16_t bytes) {
  return vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vdupq_n_s8(MB_INT4_ZERO));
}

MB_INLINE int8x16_t high_codes(uint8x16_t bytes) {
  return vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), vdupq_n_s8(MB_INT4_ZERO));
}

/* Adds one block of four positions, `products` of each query, to the scores of `rows` queries. query_scales: of the
 * first query; those of the next are `blocks` behind. first: there was no block before. */
MB_INLINE void add_scores(const quad_sums products[SCORE_ROWS], const float *query_scales, float32x4_t key_scales,
                          uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++, scores += scores_stride) {
    const float32x4_t dots = vcvtq_f32_s32(quad_rows(products[r]));
    const float32x4_t before = first ? vdupq_n_f32(0) : vld1q_f32(scores);
    const float32x4_t scale = vmulq_f32(vdupq_n_f32(query_scales[r * blocks]), key_scales);
    vst1q_f32(scores, vaddq_f32(before, vmulq_f32(dots, scale)));
  }
}

/* Adds one block of the keys of four positions to the scores of `rows` queries. q, query_scales: of the first query;
 * those of the next are `blocks` blocks behind. first: there was no block before. */
MB_INLINE void score_4(const uint8_t *k, float32x4_t key_scales, const int8_t *q, const float *query_scales,
                       uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  quad s[SCORE_ROWS]; /* a quad holds all eight steps: 8 * 8 * 127 < 2^15 */
  for (uint32_t r = 0; r < rows; r++) s[r] = quad_zero();
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 8) {
    const uint8x16_t bytes = vld1q_u8(k + d / 2 * MB_KV_GROUP);
    const int8x16_t low = low_codes(bytes), high = high_codes(bytes);
    for (uint32_t r = 0; r < rows; r++) {
      const int8_t *x = q + (size_t)r * blocks * MB_KV_BLOCK + d;
      s[r] = quad_dot(quad_dot(s[r], low, broadcast_4(x)), high, broadcast_4(x + 4));
    }
  }
  quad_sums sums[SCORE_ROWS];
  for (uint32_t r = 0; r < rows; r++) sums[r] = quad_add(quad_sums_zero(), s[r]);
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

static void scores_int4(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t rows = queries->rows, blocks = keys->blocks;
  for (uint32_t p = 0; p < keys->positions; p += 4)
    for (uint32_t r = 0; r < rows; r += SCORE_ROWS) {
      const uint32_t some = rows - r < SCORE_ROWS ? rows - r : SCORE_ROWS;
      float *to = scores + r * scores_stride + p;
      for (uint32_t b = 0; b < blocks; b++) {
        const int8_t *q = queries->codes + ((size_t)r * blocks + b) * MB_KV_BLOCK;
        const float *qs = queries->scales + (size_t)r * blocks + b;
        const uint8_t *k = keys->codes + mb_int4_block_at(blocks, p, b) * MB_INT4_BLOCK_BYTES + mb_int4_key(p, 0).byte;
        const float32x4_t ks = load_4_f16(keys->scales + mb_int4_scale_at(blocks, p, b));
        switch (some) { FOR_SOME_ROWS(score_4(k, ks, q, qs, blocks, to, scores_stride, b == 0, ROWS)) }
      }
    }
}

/* The same with keys of 8 bits. Keys and queries are in [-127, 127]. */
MB_INLINE void score_4_of_8(const int8_t *k, float32x4_t key_scales, const int8_t *q, const float *query_scales,
                            uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  const uint32_t steps = STEPS(127); /* that a quad holds */
  quad s[SCORE_ROWS];
  quad_sums sums[SCORE_ROWS];
  for (uint32_t r = 0; r < rows; r++) sums[r] = quad_sums_zero();
  for (uint32_t r = 0; r < rows; r++) s[r] = quad_zero();
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 4) {
    const int8x16_t key = vld1q_s8(k + d * MB_KV_GROUP);
    for (uint32_t r = 0; r < rows; r++) {
      s[r] = quad_dot(s[r], key, broadcast_4(q + (size_t)r * blocks * MB_KV_BLOCK + d));
      if ((d / 4 + 1) % steps != 0 && d + 4 < MB_KV_BLOCK) continue;
      sums[r] = quad_add(sums[r], s[r]);
      s[r] = quad_zero();
    }
  }
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

static void scores_key8(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t rows = queries->rows, blocks = keys->blocks;
  for (uint32_t p = 0; p < keys->positions; p += 4)
    for (uint32_t r = 0; r < rows; r += SCORE_ROWS) {
      const uint32_t some = rows - r < SCORE_ROWS ? rows - r : SCORE_ROWS;
      float *to = scores + r * scores_stride + p;
      for (uint32_t b = 0; b < blocks; b++) {
        const int8_t *q = queries->codes + ((size_t)r * blocks + b) * MB_KV_BLOCK;
        const float *qs = queries->scales + (size_t)r * blocks + b;
        const int8_t *k =
            (const int8_t *)keys->codes + mb_int4_block_at(blocks, p, b) * MB_KEY8_BLOCK_BYTES + mb_key8_byte(p, 0);
        const float32x4_t ks = load_4_f16(keys->scales + mb_int4_scale_at(blocks, p, b));
        switch (some) { FOR_SOME_ROWS(score_4_of_8(k, ks, q, qs, blocks, to, scores_stride, b == 0, ROWS)) }
      }
    }
}

/* The weights of a tile, as mix_int4 wants them. */
typedef struct {
  int16_t codes[MIX_ROWS][MB_KV_TILE];
  float scales[MIX_ROWS];
} tile_weights;

/* One row's weights times the values' scales, to codes; returns their scale. positions: a multiple of 16. */
MB_INLINE float weigh_positions(const float *weights, const float *value_scales, uint32_t positions, int16_t *codes) {
  float scaled[MB_KV_TILE];
  uint32x4_t most = vdupq_n_u32(0);
  for (uint32_t i = 0; i < positions; i += 4) {
    const float32x4_t weight = vld1q_f32(weights + i);
    const uint32x4_t unseen = vceqq_f32(weight, vdupq_n_f32(0));
    const uint32x4_t product = vreinterpretq_u32_f32(vmulq_f32(weight, vld1q_f32(value_scales + i)));
    const uint32x4_t seen = vbicq_u32(product, unseen);
    vst1q_f32(scaled + i, vreinterpretq_f32_u32(seen));
    most = vmaxq_u32(most, vandq_u32(seen, vdupq_n_u32(0x7fffffff)));
  }
  uint32x2_t m = vmax_u32(vget_low_u32(most), vget_high_u32(most));
  m = vpmax_u32(m, m);
  const mb_group_scale s = mb_scale_of_weights(vget_lane_u32(m, 0));
  const float32x4_t inverse = vdupq_n_f32(s.inverse);
  for (uint32_t i = 0; i < positions; i += 4) vst1_s16(codes + i, quantise_4(scaled + i, inverse));
  return s.scale;
}

/* Adds 16 dimensions of a tile's values to `rows` rows. v: the block's codes; high: of its upper 16 dimensions. */
MB_INLINE void mix_tile_16(const tile_weights *weights, const uint8_t *v, size_t group_bytes, uint32_t positions,
                           bool high, float *out, size_t out_stride, uint32_t rows) {
  int32x4_t sums[MIX_ROWS][4];
  for (uint32_t r = 0; r < rows; r++)
    for (int j = 0; j < 4; j++) sums[r][j] = vdupq_n_s32(0);
  for (uint32_t p = 0; p < positions; p += MB_KV_GROUP, v += group_bytes)
    for (uint32_t i = 0; i < MB_KV_GROUP; i += 2) {
      const uint8x16x2_t pair = vld2q_u8(v + i * (MB_KV_BLOCK / 2)); /* 16 dimensions of two positions */
      for (int which = 0; which < 2; which++) {
        const int8x16_t codes = high ? high_codes(pair.val[which]) : low_codes(pair.val[which]);
        const int16x8_t v0 = vmovl_s8(vget_low_s8(codes)), v1 = vmovl_s8(vget_high_s8(codes));
        for (uint32_t r = 0; r < rows; r++) {
          const int16x4_t w = vdup_n_s16(weights->codes[r][p + i + which]);
          sums[r][0] = vmlal_s16(sums[r][0], vget_low_s16(v0), w);
          sums[r][1] = vmlal_s16(sums[r][1], vget_high_s16(v0), w);
          sums[r][2] = vmlal_s16(sums[r][2], vget_low_s16(v1), w);
          sums[r][3] = vmlal_s16(sums[r][3], vget_high_s16(v1), w);
        }
      }
    }
  for (uint32_t r = 0; r < rows; r++, out += out_stride)
    for (int j = 0; j < 4; j++) {
      const float32x4_t part = vmulq_f32(vcvtq_f32_s32(sums[r][j]), vdupq_n_f32(weights->scales[r]));
      vst1q_f32(out + 4 * j, vaddq_f32(vld1q_f32(out + 4 * j), part));
    }
}

/* One tile of one block. v, scales: of the tile's first position. */
MB_INLINE void mix_tile_block(const float *weights, size_t weights_stride, uint32_t rows, const uint8_t *v,
                              const float *value_scales, size_t group_bytes, uint32_t positions, float *out,
                              size_t stride) {
  for (uint32_t r = 0; r < rows; r += MIX_ROWS) {
    const uint32_t some = rows - r < MIX_ROWS ? rows - r : MIX_ROWS;
    tile_weights tile;
    for (uint32_t i = 0; i < some; i++)
      tile.scales[i] = weigh_positions(weights + (r + i) * weights_stride, value_scales, positions, tile.codes[i]);
    for (uint32_t high = 0; high < 2; high++) {
      float *to = out + r * stride + 16 * high;
      switch (some) { FOR_SOME_ROWS(mix_tile_16(&tile, v, group_bytes, positions, high != 0, to, stride, ROWS)) }
    }
  }
}

static void mix_int4(const float *weights, size_t weights_stride, uint32_t rows, const mb_kv_groups *values,
                     uint32_t first_block, uint32_t last_block, float *out) {
  const size_t stride = (size_t)values->blocks * MB_KV_BLOCK, group_bytes = values->blocks * MB_INT4_BLOCK_BYTES;
  for (uint32_t first = 0; first < values->positions; first += MB_KV_TILE)
    for (uint32_t b = first_block; b < last_block; b++) {
      const uint32_t left = values->positions - first, positions = left < MB_KV_TILE ? left : MB_KV_TILE;
      float scales[MB_KV_TILE];
      for (uint32_t p = 0; p < positions; p += 4)
        vst1q_f32(scales + p, load_4_f16(values->scales + mb_int4_scale_at(values->blocks, first + p, b)));
      const uint8_t *v = values->codes + mb_int4_block_at(values->blocks, first, b) * MB_INT4_BLOCK_BYTES;
      mix_tile_block(weights + first, weights_stride, rows, v, scales, group_bytes, positions, out + b * MB_KV_BLOCK,
                     stride);
    }
}

#endif

/* Attention over the 4-bit KV cache, AVX2. The queries that meet the same keys share what is loaded and unpacked.
 *
 * A fragment of avx2.c. It defines scores_int4(), scores_key8() and mix_int4(), the table's entries. */
#ifndef MB_KERNELS_AVX2_INT4_IMPL_H
#define MB_KERNELS_AVX2_INT4_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/quantise.h"

#define SCORE_ROWS 4 /* queries that share a load of 16 positions' keys */
#define MIX_ROWS 4   /* queries that share the values, with 16 dimensions of each in 8 accumulators */

/* Adds one block of 16 positions, `products` of each query, to the scores of `rows` queries. query_scales: of the first
 * query; those of the next are `blocks` behind. first: there was no block before. */
MB_INLINE void add_scores(__m256i products[SCORE_ROWS][2], const float *query_scales, const uint16_t *key_scales,
                          uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  const __m256 s0 = load_8_f16(key_scales), s1 = load_8_f16(key_scales + 8);
  for (uint32_t r = 0; r < rows; r++, scores += scores_stride) {
    const __m256 scale = _mm256_set1_ps(query_scales[r * blocks]);
    const __m256 d0 = _mm256_cvtepi32_ps(products[r][0]), d1 = _mm256_cvtepi32_ps(products[r][1]);
    const __m256 f0 = first ? _mm256_setzero_ps() : _mm256_loadu_ps(scores);
    const __m256 f1 = first ? _mm256_setzero_ps() : _mm256_loadu_ps(scores + 8);
    _mm256_storeu_ps(scores, _mm256_add_ps(f0, _mm256_mul_ps(d0, _mm256_mul_ps(scale, s0))));
    _mm256_storeu_ps(scores + 8, _mm256_add_ps(f1, _mm256_mul_ps(d1, _mm256_mul_ps(scale, s1))));
  }
}

/* Adds one block of the keys of one group to the scores of `rows` queries. q, query_scales, query_sums: of the first
 * query; those of the next are `blocks` blocks behind. first: there was no block before. */
MB_INLINE void score_block(const int8_t *q, const float *query_scales, const int32_t *query_sums, const uint8_t *k,
                           const uint16_t *key_scales, uint32_t blocks, float *scores, size_t scores_stride, bool first,
                           uint32_t rows) {
  const __m256i fifteen = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
  __m256i sums[SCORE_ROWS][2]; /* pairs of products, eight to a lane: 8 * 2 * 15 * 127 < 2^15 */
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  UNROLL_NOT for (uint32_t d = 0; d < MB_KV_BLOCK; d += 8, k += 4 * MB_KV_GROUP) {
    const __m256i k0 = load_bytes(k), k1 = load_bytes(k + 32);
    const __m256i low0 = _mm256_and_si256(k0, fifteen), low1 = _mm256_and_si256(k1, fifteen);
    const __m256i high0 = _mm256_and_si256(_mm256_srli_epi16(k0, 4), fifteen);
    const __m256i high1 = _mm256_and_si256(_mm256_srli_epi16(k1, 4), fifteen);
    for (uint32_t r = 0; r < rows; r++) {
      const int8_t *x = q + (size_t)r * blocks * MB_KV_BLOCK + d;
      const __m256i x0 = broadcast_4(x), x1 = broadcast_4(x + 4);
      sums[r][0] = _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(low0, x0));
      sums[r][1] = _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(low1, x0));
      sums[r][0] = _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(high0, x1));
      sums[r][1] = _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(high1, x1));
    }
  }
  for (uint32_t r = 0; r < rows; r++) {
    const __m256i zeros = _mm256_set1_epi32(MB_INT4_ZERO * query_sums[r * blocks]);
    for (int j = 0; j < 2; j++) sums[r][j] = _mm256_sub_epi32(_mm256_madd_epi16(sums[r][j], one), zeros);
  }
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

static void scores_int4(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t rows = queries->rows, blocks = keys->blocks;
  for (uint32_t p = 0; p < keys->positions; p += MB_KV_GROUP)
    for (uint32_t r = 0; r < rows; r += SCORE_ROWS) {
      const uint32_t some = rows - r < SCORE_ROWS ? rows - r : SCORE_ROWS;
      float *to = scores + r * scores_stride + p;
      for (uint32_t b = 0; b < blocks; b++) {
        const size_t query = (size_t)r * blocks + b, at = mb_int4_block_at(blocks, p, b);
        const int8_t *q = queries->codes + query * MB_KV_BLOCK;
        const float *qs = queries->scales + query;
        const int32_t *sums = queries->sums + query;
        const uint8_t *k = keys->codes + at * MB_INT4_BLOCK_BYTES;
        const uint16_t *ks = keys->scales + at * MB_KV_GROUP;
        switch (some) {
          FOR_ROWS(1, score_block(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(2, score_block(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(3, score_block(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(4, score_block(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS))
        }
      }
    }
}

/* The same with keys of 8 bits. Keys and queries are in [-127, 127]. */
MB_INLINE void score_block_8(const int8_t *q, const float *query_scales, const int8_t *k, const uint16_t *key_scales,
                             uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  const __m256i one = _mm256_set1_epi16(1);
  __m256i sums[SCORE_ROWS][2];
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  UNROLL_NOT for (uint32_t d = 0; d < MB_KV_BLOCK; d += 4, k += 4 * MB_KV_GROUP) {
    const __m256i k0 = load_bytes(k), k1 = load_bytes(k + 32), m0 = _mm256_abs_epi8(k0), m1 = _mm256_abs_epi8(k1);
    for (uint32_t r = 0; r < rows; r++) {
      const __m256i x = broadcast_4(q + (size_t)r * blocks * MB_KV_BLOCK + d);
      const __m256i p0 = _mm256_maddubs_epi16(m0, _mm256_sign_epi8(x, k0));
      const __m256i p1 = _mm256_maddubs_epi16(m1, _mm256_sign_epi8(x, k1));
      sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(p0, one));
      sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(p1, one));
    }
  }
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

static void scores_key8(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t rows = queries->rows, blocks = keys->blocks;
  for (uint32_t p = 0; p < keys->positions; p += MB_KV_GROUP)
    for (uint32_t r = 0; r < rows; r += SCORE_ROWS) {
      const uint32_t some = rows - r < SCORE_ROWS ? rows - r : SCORE_ROWS;
      float *to = scores + r * scores_stride + p;
      for (uint32_t b = 0; b < blocks; b++) {
        const size_t query = (size_t)r * blocks + b, at = mb_int4_block_at(blocks, p, b);
        const int8_t *q = queries->codes + query * MB_KV_BLOCK;
        const float *qs = queries->scales + query;
        const int8_t *k = (const int8_t *)keys->codes + at * MB_KEY8_BLOCK_BYTES;
        const uint16_t *ks = keys->scales + at * MB_KV_GROUP;
        switch (some) {
          FOR_ROWS(1, score_block_8(q, qs, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(2, score_block_8(q, qs, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(3, score_block_8(q, qs, k, ks, blocks, to, scores_stride, b == 0, ROWS))
          FOR_ROWS(4, score_block_8(q, qs, k, ks, blocks, to, scores_stride, b == 0, ROWS))
        }
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
  const __m256 zero = _mm256_setzero_ps();
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256 scaled[MB_KV_TILE / 8];
  __m256i most = _mm256_setzero_si256();
  for (uint32_t i = 0; i < positions / 8; i++) {
    const __m256 weight = _mm256_loadu_ps(weights + 8 * i);
    scaled[i] = _mm256_and_ps(_mm256_mul_ps(weight, _mm256_loadu_ps(value_scales + 8 * i)),
                              _mm256_cmp_ps(weight, zero, _CMP_NEQ_UQ));
    most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(scaled[i]), magnitude));
  }
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  const mb_group_scale s = mb_scale_of_weights((uint32_t)_mm_cvtsi128_si32(m));
  const __m256 inverse = _mm256_set1_ps(s.inverse);
  for (uint32_t i = 0; i < positions / 8;
       i += 2) { /* cvtps rounds to nearest even, as the definition's addition does */
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(scaled[i], inverse));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(scaled[i + 1], inverse));
    _mm256_storeu_si256((__m256i *)(void *)(codes + 8 * i), _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
  }
  return s.scale;
}

/* Adds 16 dimensions of a tile's values to `rows` rows. v: the block's codes; high: of its upper 16 dimensions. */
MB_INLINE void mix_tile_16(const tile_weights *weights, const uint8_t *v, size_t group_bytes, uint32_t positions,
                           bool high, float *out, size_t out_stride, uint32_t rows) {
  const __m256i fifteen = _mm256_set1_epi8(15), zero = _mm256_set1_epi8(MB_INT4_ZERO);
  __m256i sums[MIX_ROWS][2];
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  for (uint32_t p = 0; p < positions; p += MB_KV_GROUP, v += group_bytes)
    UNROLL_NOT for (uint32_t i = 0; i < MB_KV_GROUP; i += 2) { /* 16 dimensions of two positions */
      __m256i pair = load_bytes(v + i * (MB_KV_BLOCK / 2));
      if (high) pair = _mm256_srli_epi16(pair, 4);
      pair = _mm256_sub_epi8(_mm256_and_si256(pair, fifteen), zero);
      const __m256i v0 = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(pair));
      const __m256i v1 = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(pair, 1));
      for (uint32_t r = 0; r < rows; r++) {
        const __m256i w = broadcast_4((const int8_t *)(weights->codes[r] + p + i));
        sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(v0, w));
        sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(v1, w));
      }
    }
  for (uint32_t r = 0; r < rows; r++, out += out_stride) {
    const __m256 scale = _mm256_set1_ps(weights->scales[r]);
    const __m256 a = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][0]), scale);
    const __m256 b = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][1]), scale);
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), a));
    _mm256_storeu_ps(out + 8, _mm256_add_ps(_mm256_loadu_ps(out + 8), b));
  }
}

#define MIX_TILE mix_tile_16(&tile, v, group_bytes, positions, high != 0, to, stride, ROWS)

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
      switch (some) {
        FOR_ROWS(1, MIX_TILE)
        FOR_ROWS(2, MIX_TILE)
        FOR_ROWS(3, MIX_TILE)
        FOR_ROWS(4, MIX_TILE)
      }
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
      for (uint32_t p = 0; p < positions; p += 8)
        _mm256_storeu_ps(scales + p, load_8_f16(values->scales + mb_int4_scale_at(values->blocks, first + p, b)));
      const uint8_t *v = values->codes + mb_int4_block_at(values->blocks, first, b) * MB_INT4_BLOCK_BYTES;
      mix_tile_block(weights + first, weights_stride, rows, v, scales, group_bytes, positions, out + b * MB_KV_BLOCK,
                     stride);
    }
}

#endif

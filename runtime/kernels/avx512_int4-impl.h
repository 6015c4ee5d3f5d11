/* Attention over the 4-bit KV cache, AVX-512 with VNNI: a register is a group's 16 positions, or 16 dimensions.
 *
 * A fragment of avx512.c. It defines mb_avx512_scores_int4(), mb_avx512_scores_key8() and mb_avx512_mix_int4(). */
#ifndef MB_KERNELS_AVX512_INT4_IMPL_H
#define MB_KERNELS_AVX512_INT4_IMPL_H

#include "kernels/avx512.h"
#include "kernels/avx512_common.h"
#include "kernels/quantise.h"

#define INT4_ROWS 4    /* queries that share what is loaded and unpacked */
#define INT4_AHEAD 128 /* positions that are fetched before they are read */
#define INT4_PASS 512  /* positions whose keys stay in L1 while all queries pass over them */

/* Adds one block of a group, `products` of each query, to the scores of `rows` queries. query_scales: of the first
 * query; those of the next are `blocks` behind. first: there was no block before. */
MB_INLINE void add_scores(const __m512i products[INT4_ROWS], const float *query_scales, const uint16_t *key_scales,
                          uint32_t blocks, float *scores, size_t scores_stride, bool first, uint32_t rows) {
  const __m512 key_scale = load_16_f16(key_scales);
  for (uint32_t r = 0; r < rows; r++, scores += scores_stride) {
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(query_scales[r * blocks]), key_scale);
    const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(scores);
    _mm512_storeu_ps(scores, _mm512_add_ps(before, _mm512_mul_ps(_mm512_cvtepi32_ps(products[r]), scale)));
  }
}

/* Adds one block of the keys of one group to the scores of `rows` queries. q, query_scales, query_sums: of the first
 * query; those of the next are `blocks` blocks behind. first: there was no block before. */
MB_INLINE void score_group(const int8_t *q, const float *query_scales, const int32_t *query_sums, const uint8_t *k,
                           const uint16_t *key_scales, uint32_t blocks, float *scores, size_t scores_stride, bool first,
                           uint32_t rows) {
  const __m512i fifteen = _mm512_set1_epi8(15);
  __m512i sums[INT4_ROWS];
  for (uint32_t r = 0; r < rows; r++) sums[r] = _mm512_set1_epi32(-MB_INT4_ZERO * query_sums[r * blocks]);
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 8, k += 4 * MB_KV_GROUP) {
    const __m512i bytes = load_64_bytes(k);
    const __m512i low = _mm512_and_si512(bytes, fifteen), high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), fifteen);
    for (uint32_t r = 0; r < rows; r++) {
      const int8_t *x = q + (size_t)r * blocks * MB_KV_BLOCK + d;
      sums[r] = _mm512_dpbusd_epi32(sums[r], low, broadcast_4_bytes(x));
      sums[r] = _mm512_dpbusd_epi32(sums[r], high, broadcast_4_bytes(x + 4));
    }
  }
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

#define SCORE_GROUP score_group(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS)

void mb_avx512_scores_int4(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t blocks = keys->blocks, positions = keys->positions;
  for (uint32_t pass = 0; pass < positions; pass += INT4_PASS)
    for (uint32_t r = 0; r < queries->rows; r += INT4_ROWS) {
      const uint32_t end = positions - pass < INT4_PASS ? positions : pass + INT4_PASS;
      const uint32_t rows = queries->rows - r < INT4_ROWS ? queries->rows - r : INT4_ROWS;
      for (uint32_t p = pass; p < end; p += MB_KV_GROUP)
        for (uint32_t b = 0; b < blocks; b++) {
          const size_t query = (size_t)r * blocks + b, at = mb_int4_block_at(blocks, p, b);
          const int8_t *q = queries->codes + query * MB_KV_BLOCK;
          const float *qs = queries->scales + query;
          const int32_t *sums = queries->sums + query;
          const uint8_t *k = keys->codes + at * MB_INT4_BLOCK_BYTES;
          const uint16_t *ks = keys->scales + at * MB_KV_GROUP;
          float *to = scores + r * scores_stride + p;
          if (r == 0)
            fetch_ahead(k + INT4_AHEAD / MB_KV_GROUP * (size_t)blocks * MB_INT4_BLOCK_BYTES, MB_INT4_BLOCK_BYTES);
          switch (rows) {
            FOR_ROWS(1, SCORE_GROUP)
            FOR_ROWS(2, SCORE_GROUP)
            FOR_ROWS(3, SCORE_GROUP)
            FOR_ROWS(4, SCORE_GROUP)
          }
        }
    }
}

/* The same with keys of 8 bits. A product takes unsigned bytes, so 128 is added to the keys. */
MB_INLINE void score_group_8(const int8_t *q, const float *query_scales, const int32_t *query_sums, const uint8_t *k,
                             const uint16_t *key_scales, uint32_t blocks, float *scores, size_t scores_stride,
                             bool first, uint32_t rows) {
  const __m512i offset = _mm512_set1_epi8(-128);
  __m512i sums[INT4_ROWS];
  for (uint32_t r = 0; r < rows; r++) sums[r] = _mm512_set1_epi32(-128 * query_sums[r * blocks]);
  for (uint32_t d = 0; d < MB_KV_BLOCK; d += 4, k += 4 * MB_KV_GROUP) {
    const __m512i keys = _mm512_xor_si512(load_64_bytes(k), offset);
    for (uint32_t r = 0; r < rows; r++)
      sums[r] = _mm512_dpbusd_epi32(sums[r], keys, broadcast_4_bytes(q + (size_t)r * blocks * MB_KV_BLOCK + d));
  }
  add_scores(sums, query_scales, key_scales, blocks, scores, scores_stride, first, rows);
}

#define SCORE_GROUP_8 score_group_8(q, qs, sums, k, ks, blocks, to, scores_stride, b == 0, ROWS)

void mb_avx512_scores_key8(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  const uint32_t blocks = keys->blocks, positions = keys->positions;
  for (uint32_t pass = 0; pass < positions; pass += INT4_PASS)
    for (uint32_t r = 0; r < queries->rows; r += INT4_ROWS) {
      const uint32_t end = positions - pass < INT4_PASS ? positions : pass + INT4_PASS;
      const uint32_t rows = queries->rows - r < INT4_ROWS ? queries->rows - r : INT4_ROWS;
      for (uint32_t p = pass; p < end; p += MB_KV_GROUP)
        for (uint32_t b = 0; b < blocks; b++) {
          const size_t query = (size_t)r * blocks + b, at = mb_int4_block_at(blocks, p, b);
          const int8_t *q = queries->codes + query * MB_KV_BLOCK;
          const float *qs = queries->scales + query;
          const int32_t *sums = queries->sums + query;
          const uint8_t *k = keys->codes + at * MB_KEY8_BLOCK_BYTES;
          const uint16_t *ks = keys->scales + at * MB_KV_GROUP;
          float *to = scores + r * scores_stride + p;
          if (r == 0)
            fetch_ahead(k + INT4_AHEAD / MB_KV_GROUP * (size_t)blocks * MB_KEY8_BLOCK_BYTES, MB_KEY8_BLOCK_BYTES);
          switch (rows) {
            FOR_ROWS(1, SCORE_GROUP_8)
            FOR_ROWS(2, SCORE_GROUP_8)
            FOR_ROWS(3, SCORE_GROUP_8)
            FOR_ROWS(4, SCORE_GROUP_8)
          }
        }
    }
}

/* The weights of a tile: their codes, scales, and what the values' MB_INT4_ZERO adds to a sum, taken away. */
typedef struct {
  int16_t codes[INT4_ROWS][MB_KV_TILE];
  int32_t minus[INT4_ROWS];
  float scales[INT4_ROWS];
} tile_weights;

/* One row's weights times the values' scales, to codes; returns their scale. positions: a multiple of 16. */
MB_INLINE float weigh_positions(const float *weights, const __m512 *value_scales, uint32_t positions, int16_t *codes,
                                int32_t *minus) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512 scaled[MB_KV_TILE / 16];
  __m512i most = _mm512_setzero_si512(), sum = most;
  for (uint32_t i = 0; i < positions / 16; i++) {
    const __m512 weight = _mm512_loadu_ps(weights + 16 * i);
    scaled[i] = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(weight, zero, _CMP_NEQ_UQ), weight, value_scales[i]);
    most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(scaled[i]), magnitude));
  }
  const mb_group_scale s = mb_scale_of_weights((uint32_t)_mm512_reduce_max_epi32(most));
  const __m512 inverse = _mm512_set1_ps(s.inverse);
  for (uint32_t i = 0; i < positions / 16; i++) { /* cvtps rounds to nearest even, as the definition's addition does */
    /* inverse 0: the values may be infinite, and no arithmetic is done on them */
    const __m512i code =
        s.inverse != 0 ? _mm512_cvtps_epi32(_mm512_mul_ps(scaled[i], inverse)) : _mm512_setzero_si512();
    sum = _mm512_add_epi32(sum, code);
    _mm256_storeu_si256((__m256i *)(void *)(codes + 16 * i), _mm512_cvtepi32_epi16(code));
  }
  *minus = -MB_INT4_ZERO * _mm512_reduce_add_epi32(sum);
  return s.scale;
}

/* Adds one block of a tile's values to `rows` rows. v: the block's codes. */
MB_INLINE void mix_tile_block(const tile_weights *weights, const uint8_t *v, size_t group_bytes, uint32_t positions,
                              float *out, size_t stride, uint32_t rows) {
  const __m256i fifteen = _mm256_set1_epi8(15);
  __m512i low[INT4_ROWS], high[INT4_ROWS]; /* of the lower and of the upper 16 dimensions */
  for (uint32_t r = 0; r < rows; r++) low[r] = high[r] = _mm512_set1_epi32(weights->minus[r]);
  for (uint32_t p = 0; p < positions; p += MB_KV_GROUP, v += group_bytes)
    UNROLL_NOT for (uint32_t i = 0; i < MB_KV_GROUP; i += 2) { /* two positions, side by side */
      const __m256i pair = load_bytes(v + i * (MB_KV_BLOCK / 2));
      const __m512i v0 = _mm512_cvtepu8_epi16(_mm256_and_si256(pair, fifteen));
      const __m512i v1 = _mm512_cvtepu8_epi16(_mm256_and_si256(_mm256_srli_epi16(pair, 4), fifteen));
      for (uint32_t r = 0; r < rows; r++) {
        const __m512i w = broadcast_4_bytes(weights->codes[r] + p + i);
        low[r] = _mm512_dpwssd_epi32(low[r], v0, w);
        high[r] = _mm512_dpwssd_epi32(high[r], v1, w);
      }
    }
  for (uint32_t r = 0; r < rows; r++, out += stride) {
    const __m512 scale = _mm512_set1_ps(weights->scales[r]);
    const __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(low[r]), scale);
    const __m512 b = _mm512_mul_ps(_mm512_cvtepi32_ps(high[r]), scale);
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), a));
    _mm512_storeu_ps(out + 16, _mm512_add_ps(_mm512_loadu_ps(out + 16), b));
  }
}

void mb_avx512_mix_int4(const float *weights, size_t weights_stride, uint32_t rows, const mb_kv_groups *values,
                        uint32_t first_block, uint32_t last_block, float *out) {
  const size_t stride = (size_t)values->blocks * MB_KV_BLOCK, group_bytes = values->blocks * MB_INT4_BLOCK_BYTES;
  for (uint32_t first = 0; first < values->positions; first += MB_KV_TILE)
    for (uint32_t b = first_block; b < last_block; b++) {
      const uint32_t left = values->positions - first, positions = left < MB_KV_TILE ? left : MB_KV_TILE;
      __m512 scales[MB_KV_TILE / 16];
      for (uint32_t p = 0; p < positions; p += 16)
        scales[p / 16] = load_16_f16(values->scales + mb_int4_scale_at(values->blocks, first + p, b));
      const uint8_t *v = values->codes + mb_int4_block_at(values->blocks, first, b) * MB_INT4_BLOCK_BYTES;
      for (uint32_t p = 0; p < MB_KV_TILE; p += MB_KV_GROUP)
        fetch_ahead(v + (INT4_AHEAD + p) / MB_KV_GROUP * group_bytes, MB_INT4_BLOCK_BYTES);
      for (uint32_t r = 0; r < rows; r += INT4_ROWS) {
        const uint32_t some = rows - r < INT4_ROWS ? rows - r : INT4_ROWS;
        float *to = out + r * stride + b * MB_KV_BLOCK;
        tile_weights tile;
        for (uint32_t i = 0; i < some; i++)
          tile.scales[i] = weigh_positions(weights + (r + i) * weights_stride + first, scales, positions, tile.codes[i],
                                           tile.minus + i);
        switch (some) {
          FOR_ROWS(1, mix_tile_block(&tile, v, group_bytes, positions, to, stride, ROWS))
          FOR_ROWS(2, mix_tile_block(&tile, v, group_bytes, positions, to, stride, ROWS))
          FOR_ROWS(3, mix_tile_block(&tile, v, group_bytes, positions, to, stride, ROWS))
          FOR_ROWS(4, mix_tile_block(&tile, v, group_bytes, positions, to, stride, ROWS))
        }
      }
    }
}

#endif

/* Attention over the int8 KV cache, AVX-512 with VNNI: the sums of kernels.h in their order, two positions or 32
 * dimensions at a time.
 *
 * A fragment of avx512.c. It defines mb_avx512_scores_int8() and mb_avx512_mix_int8(). */
#ifndef MB_KERNELS_AVX512_INT8_IMPL_H
#define MB_KERNELS_AVX512_INT8_IMPL_H

#include "kernels/avx512.h"
#include "kernels/avx512_common.h"
#include "mobile_bundle/weights_index.h"

#define INT8_ROWS 4       /* queries that share what is loaded of a key, or of 32 dimensions of a value */
#define INT8_POSITIONS 16 /* one register of finished scores */
#define INT8_AHEAD 64     /* positions that are fetched before they are read */
#define INT8_PASS 256     /* positions whose keys stay in L1 while all queries pass over them */
#define INT8_TILE 64      /* positions whose scales are converted at once */
#define MOST_BLOCKS (MB_MOST_HEAD_DIM / MB_KV_BLOCK)

/* Some queries, twice in a register to meet two keys. A product takes unsigned bytes, so the keys come with 128 added;
 * `minus` takes 128 times the queries' sums away again. */
typedef struct {
  struct {
    __m512i codes, minus;
  } blocks[INT8_ROWS * MOST_BLOCKS]; /* of a row after the other */
  const float *scales;
} doubled_queries;

static void double_queries(const mb_queries *queries, uint32_t first, uint32_t rows, uint32_t blocks,
                           doubled_queries *to) {
  const __m512i offset = _mm512_set1_epi8(-128); /* 128 as an unsigned byte */
  to->scales = queries->scales + (size_t)first * blocks;
  for (uint32_t i = 0; i < rows * blocks; i++) {
    const int8_t *codes = queries->codes + ((size_t)first * blocks + i) * MB_KV_BLOCK;
    const __m512i twice = _mm512_broadcast_i64x4(load_bytes(codes));
    const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), offset, twice);
    to->blocks[i].codes = twice;
    to->blocks[i].minus = _mm512_sub_epi32(_mm512_setzero_si512(), sums);
  }
}

/* The eight partial sums of two positions' products with `rows` queries, a row's INT8_POSITIONS / 2 apart. second: the
 * other position's key; its scales lie `blocks` behind. */
MB_INLINE void score_two(__m512 *sums, const doubled_queries *q, const int8_t *k, const int8_t *second,
                         const float *key_scales, const float *second_scales, uint32_t blocks, uint32_t rows) {
  const __m512i offset = _mm512_set1_epi8(-128);
  __m512 s[INT8_ROWS];
  for (uint32_t r = 0; r < rows; r++) s[r] = _mm512_setzero_ps();
  for (uint32_t b = 0; b < blocks; b++) {
    const __m512i low = _mm512_castsi256_si512(load_bytes(k + b * MB_KV_BLOCK));
    const __m512i keys = _mm512_xor_si512(_mm512_inserti64x4(low, load_bytes(second + b * MB_KV_BLOCK), 1), offset);
    const __m512 key_scale =
        _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(key_scales[b]), _mm512_set1_ps(second_scales[b]));
    for (uint32_t r = 0; r < rows; r++) {
      const __m512i dots = _mm512_dpbusd_epi32(q->blocks[r * blocks + b].minus, keys, q->blocks[r * blocks + b].codes);
      const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(q->scales[r * blocks + b]), key_scale);
      s[r] = _mm512_add_ps(s[r], _mm512_mul_ps(_mm512_cvtepi32_ps(dots), scale));
    }
  }
  for (uint32_t r = 0; r < rows; r++) sums[r * (INT8_POSITIONS / 2)] = s[r];
}

/* 16 scores of two registers' halves each: add_8_parts of every half. */
MB_INLINE __m512 add_16_halves(const __m512 v[INT8_POSITIONS / 2]) {
  __m512 s[4], t[2];
  for (int i = 0; i < 4; i++) /* parts i + (i + 4) of four positions, each in a quarter */
    s[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                         _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
  for (int i = 0; i < 2; i++) { /* a quarter: two parts of position p, two of position p + 4 */
    const __m512d a = _mm512_castps_pd(s[2 * i]), b = _mm512_castps_pd(s[2 * i + 1]);
    t[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const __m512 mixed = /* a quarter: positions p, p + 4, p + 8, p + 12 */
      _mm512_add_ps(_mm512_shuffle_ps(t[0], t[1], 0x88), _mm512_shuffle_ps(t[0], t[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_ps(order, mixed);
}

/* Partial sums of INT8_POSITIONS positions. `count` of them exist; the last one's key stands in for the others. */
MB_INLINE void score_pairs(__m512 *sums, const doubled_queries *q, const int8_t *k, const float *scales, uint32_t count,
                           uint32_t blocks, uint32_t rows) {
  const size_t stride = (size_t)blocks * MB_KV_BLOCK;
  UNROLL_NOT for (uint32_t i = 0; i < INT8_POSITIONS; i += 2) {
    const uint32_t one = i < count ? i : count - 1, two = i + 1 < count ? i + 1 : count - 1;
    score_two(sums + i / 2, q, k + one * stride, k + two * stride, scales + one * blocks, scales + two * blocks, blocks,
              rows);
  }
}

/* Scores of INT8_POSITIONS positions or fewer. */
MB_INLINE void score_positions(const doubled_queries *q, const mb_kv_head *keys, uint32_t first, uint32_t count,
                               float *scores, size_t scores_stride, uint32_t rows) {
  const uint32_t blocks = keys->stride / MB_KV_BLOCK;
  float scales[INT8_POSITIONS * MOST_BLOCKS];
  uint16_t some[INT8_POSITIONS * MOST_BLOCKS];
  const uint16_t *halves = keys->scales + (size_t)first * blocks;
  if (count < INT8_POSITIONS) { /* whole registers are converted, but nothing behind the last scale is read */
    memset(some, 0, INT8_POSITIONS * blocks * sizeof *some);
    memcpy(some, halves, (size_t)count * blocks * sizeof *some);
    halves = some;
  }
  for (uint32_t i = 0; i < INT8_POSITIONS * blocks; i += 16) _mm512_storeu_ps(scales + i, load_16_f16(halves + i));
  __m512 sums[INT8_ROWS * INT8_POSITIONS / 2];
  const int8_t *k = (const int8_t *)keys->values + (size_t)first * keys->stride;
  if (blocks == 2) /* a constant for the smallest of the usual head sizes, whose loop is short */
    score_pairs(sums, q, k, scales, count, 2, rows);
  else
    score_pairs(sums, q, k, scales, count, blocks, rows);
  const __mmask16 there = (__mmask16)((1u << count) - 1);
  for (uint32_t r = 0; r < rows; r++)
    _mm512_mask_storeu_ps(scores + r * scores_stride, there, add_16_halves(sums + r * (INT8_POSITIONS / 2)));
}

void mb_avx512_scores_int8(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t blocks = keys->stride / MB_KV_BLOCK, positions = keys->positions;
  doubled_queries q;
  for (uint32_t pass = 0; pass < positions; pass += INT8_PASS)
    for (uint32_t r = 0; r < queries->rows; r += INT8_ROWS) {
      const uint32_t end = positions - pass < INT8_PASS ? positions : pass + INT8_PASS;
      const uint32_t rows = queries->rows - r < INT8_ROWS ? queries->rows - r : INT8_ROWS;
      double_queries(queries, r, rows, blocks, &q);
      for (uint32_t p = pass; p < end; p += INT8_POSITIONS) {
        const uint32_t count = end - p < INT8_POSITIONS ? end - p : INT8_POSITIONS;
        float *to = scores + r * scores_stride + p;
        if (r == 0)
          fetch_ahead((const int8_t *)keys->values + (size_t)(p + INT8_AHEAD) * keys->stride,
                      (size_t)INT8_POSITIONS * keys->stride);
        switch (rows) {
          FOR_ROWS(1, score_positions(&q, keys, p, count, to, scores_stride, ROWS))
          FOR_ROWS(2, score_positions(&q, keys, p, count, to, scores_stride, ROWS))
          FOR_ROWS(3, score_positions(&q, keys, p, count, to, scores_stride, ROWS))
          FOR_ROWS(4, score_positions(&q, keys, p, count, to, scores_stride, ROWS))
        }
      }
    }
}

/* Adds `width` neighbouring blocks of some positions' values to `rows` rows. v, scales: of the first position; weights,
 * out: of the first row. */
MB_INLINE void mix_blocks_int8(const float *weights, size_t weights_stride, const int8_t *v, const float *scales,
                               uint32_t stride, uint32_t positions, float *out, uint32_t rows, uint32_t width) {
  const uint32_t blocks = stride / MB_KV_BLOCK, parts = 2 * width;
  __m512 sums[INT8_ROWS * 4];
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t j = 0; j < parts; j++) sums[r * parts + j] = _mm512_loadu_ps(out + (size_t)r * stride + 16 * j);
  for (uint32_t p = 0; p < positions; p++, v += stride, scales += blocks) {
    __m512 values[4];
    for (uint32_t j = 0; j < parts; j++) {
      const __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(v + 16 * j)));
      values[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(scales[j / 2]));
    }
    for (uint32_t r = 0; r < rows; r++) {
      const __m512 weight = _mm512_set1_ps(weights[r * weights_stride + p]);
      for (uint32_t j = 0; j < parts; j++)
        sums[r * parts + j] = _mm512_add_ps(sums[r * parts + j], _mm512_mul_ps(weight, values[j]));
    }
  }
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t j = 0; j < parts; j++) _mm512_storeu_ps(out + (size_t)r * stride + 16 * j, sums[r * parts + j]);
}

#define MIX(width) mix_blocks_int8(w, weights_stride, v, scales + b, stride, count, to, ROWS, width)

void mb_avx512_mix_int8(const float *weights, size_t weights_stride, uint32_t rows, const mb_kv_head *values,
                        uint32_t first_block, uint32_t last_block, float *out) {
  const uint32_t stride = values->stride, blocks = stride / MB_KV_BLOCK, positions = values->positions;
  float scales[INT8_TILE * MOST_BLOCKS];
  for (uint32_t p = 0; p < positions; p += INT8_TILE) {
    const uint32_t count = positions - p < INT8_TILE ? positions - p : INT8_TILE, all = count * blocks;
    const uint16_t *halves = values->scales + (size_t)p * blocks;
    for (uint32_t i = 0; i < all; i += 16) {
      const __mmask16 there = (__mmask16)(all - i < 16 ? (1u << (all - i)) - 1 : 0xffff);
      _mm512_storeu_ps(scales + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, halves + i)));
    }
    fetch_ahead((const int8_t *)values->values + (size_t)(p + INT8_AHEAD) * stride, (size_t)INT8_TILE * stride);
    for (uint32_t r = 0, some; r < rows; r += some) {
      some = rows - r < INT8_ROWS ? rows - r : INT8_ROWS;
      for (uint32_t b = first_block, wide; b < last_block; b += wide) {
        const int8_t *v = (const int8_t *)values->values + (size_t)p * stride + b * MB_KV_BLOCK;
        const float *w = weights + r * weights_stride + p;
        float *to = out + (size_t)r * stride + b * MB_KV_BLOCK;
        wide = last_block - b < 2 ? 1 : 2;
        if (wide == 2) switch (some) {
            FOR_ROWS(1, MIX(2)) FOR_ROWS(2, MIX(2)) FOR_ROWS(3, MIX(2)) FOR_ROWS(4, MIX(2))
          }
        else
          switch (some) { FOR_ROWS(1, MIX(1)) FOR_ROWS(2, MIX(1)) FOR_ROWS(3, MIX(1)) FOR_ROWS(4, MIX(1)) }
      }
    }
  }
}

#endif

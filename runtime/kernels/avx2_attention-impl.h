/* Attention over a KV cache of fp16, AVX2. The queries that meet the same keys share what is loaded and converted.
 *
 * A fragment of avx2.c. It defines scores_f16() and mix_f16(), the table's entries. */
#ifndef MB_KERNELS_AVX2_ATTENTION_IMPL_H
#define MB_KERNELS_AVX2_ATTENTION_IMPL_H

#include "base/half.h"
#include "kernels/avx2_common.h"

#define SCORE_POSITIONS 8 /* one register of finished scores */
#define SCORE_HEADS 4     /* share one load of a key */
#define MIX_POSITIONS 64  /* values of that many positions stay in L1 while all heads pass over them */
#define MIX_HEADS 6       /* with 16 columns of each: 12 accumulators */

/* Eight sums of eight lanes at once, each in the order (i, i + 4), (i, i + 2), (0 + 1): result i is the sum of v[i]. */
MB_INLINE __m256 add_8_parts_of_8(const __m256 v[8]) {
  __m256 s[4], t[2];
  for (int i = 0; i < 4; i++) /* v[i] in the low half, v[i + 4] in the high half */
    s[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20), _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
  for (int i = 0; i < 2; i++) { /* s[2i] in the even 64 bits, s[2i + 1] in the odd ones */
    __m256d a = _mm256_castps_pd(s[2 * i]), b = _mm256_castps_pd(s[2 * i + 1]);
    t[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(t[0], t[1], 0x88), _mm256_shuffle_ps(t[0], t[1], 0xdd));
}

/* The eight partial sums of `heads` heads' products with one key, SCORE_POSITIONS apart. */
MB_INLINE void score_f16(__m256 *sums, const float *q, const uint16_t *k, uint32_t stride, uint32_t heads) {
  __m256 s[SCORE_HEADS];
  for (uint32_t h = 0; h < heads; h++) s[h] = _mm256_setzero_ps();
  for (uint32_t d = 0; d < stride; d += 8) {
    const __m256 key = load_8_f16(k + d);
    for (uint32_t h = 0; h < heads; h++)
      s[h] = _mm256_add_ps(s[h], _mm256_mul_ps(_mm256_loadu_ps(q + (size_t)h * stride + d), key));
  }
  for (uint32_t h = 0; h < heads; h++) sums[h * SCORE_POSITIONS] = s[h];
}

/* The finished scores of up to eight positions. */
MB_INLINE void store_scores(float *to, const __m256 sums[SCORE_POSITIONS], uint32_t count) {
  const __m256 all = add_8_parts_of_8(sums);
  if (count == SCORE_POSITIONS) {
    _mm256_storeu_ps(to, all);
  } else {
    float some[SCORE_POSITIONS];
    _mm256_storeu_ps(some, all);
    memcpy(to, some, count * sizeof *to);
  }
}

static void scores_f16(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t heads = queries->rows, stride = keys->stride, positions = keys->positions;
  __m256 sums[SCORE_HEADS * SCORE_POSITIONS]; /* of a head after the other */
  memset(sums, 0, sizeof sums);
  for (uint32_t p = 0; p < positions; p += SCORE_POSITIONS) {
    const uint32_t count = positions - p < SCORE_POSITIONS ? positions - p : SCORE_POSITIONS;
    for (uint32_t h = 0; h < heads; h += SCORE_HEADS) {
      const uint32_t some = heads - h < SCORE_HEADS ? heads - h : SCORE_HEADS;
      const float *q = queries->values + (size_t)h * stride;
      for (uint32_t i = 0; i < count; i++) {
        __m256 *to = sums + i;
        const uint16_t *k = keys->values + (size_t)(p + i) * stride;
        switch (some) {
          FOR_ROWS(1, score_f16(to, q, k, stride, ROWS))
          FOR_ROWS(2, score_f16(to, q, k, stride, ROWS))
          FOR_ROWS(3, score_f16(to, q, k, stride, ROWS))
          FOR_ROWS(4, score_f16(to, q, k, stride, ROWS))
        }
      }
      for (uint32_t i = 0; i < some; i++)
        store_scores(scores + (h + i) * scores_stride + p, sums + i * SCORE_POSITIONS, count);
    }
  }
}

#include "kernels/attention_mix-impl.h"

MB_INLINE void mix_16(const mix_block *m, uint32_t heads) {
  const uint16_t *values = m->values;
  const size_t stride = m->stride;
  float *out = m->out;
  __m256 low[MIX_HEADS], high[MIX_HEADS];
  for (uint32_t h = 0; h < heads; h++) {
    low[h] = _mm256_loadu_ps(out + h * stride);
    high[h] = _mm256_loadu_ps(out + h * stride + 8);
  }
  for (uint32_t p = 0; p < m->positions; p++, values += stride) {
    const __m256 v0 = load_8_f16(values), v1 = load_8_f16(values + 8);
    for (uint32_t h = 0; h < heads; h++) {
      __m256 weight = _mm256_set1_ps(m->weights[h * m->weights_stride + p]);
      low[h] = _mm256_add_ps(low[h], _mm256_mul_ps(weight, v0));
      high[h] = _mm256_add_ps(high[h], _mm256_mul_ps(weight, v1));
    }
  }
  for (uint32_t h = 0; h < heads; h++) {
    _mm256_storeu_ps(out + h * stride, low[h]);
    _mm256_storeu_ps(out + h * stride + 8, high[h]);
  }
}

MB_INLINE void mix_16_heads(const mix_block *m, uint32_t heads) {
  switch (heads) {
    FOR_ROWS(1, mix_16(m, ROWS))
    FOR_ROWS(2, mix_16(m, ROWS))
    FOR_ROWS(3, mix_16(m, ROWS))
    FOR_ROWS(4, mix_16(m, ROWS))
    FOR_ROWS(5, mix_16(m, ROWS))
    FOR_ROWS(6, mix_16(m, ROWS))
  }
}

#endif

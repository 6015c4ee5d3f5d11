/* Attention for AVX-512 with VNNI. Compiled with the flags of avx2.c and -mavx512f -mavx512bw -mavx512dq -mavx512vl
 * -mavx512vnni; select.c runs it only where all of them exist. */
#include "kernels/avx512.h"

#include "kernels/avx512_common.h"
#include "kernels/avx512_groups-impl.h"
#include "kernels/exponential.h"

/* x <= 0, or NaN: MB_EXP_MAX is no bound of it. */
MB_INLINE __m512 exp_16(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(MB_EXP_MIN), x);
  const __m512 t = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(MB_EXP_LOG2E)), _mm512_set1_ps(MB_EXP_ROUND));
  const __m512 n = _mm512_sub_ps(t, _mm512_set1_ps(MB_EXP_ROUND));
  __m512 r = _mm512_sub_ps(x, _mm512_mul_ps(n, _mm512_set1_ps(MB_EXP_LN2_HIGH)));
  r = _mm512_sub_ps(r, _mm512_mul_ps(n, _mm512_set1_ps(MB_EXP_LN2_LOW)));
  __m512 p = _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(MB_EXP_C5), r), _mm512_set1_ps(MB_EXP_C4));
  p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(MB_EXP_C3));
  p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(MB_EXP_C2));
  p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(MB_EXP_C1));
  p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(1.0f));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

/* The largest of the scores, or NaN where the first one is. */
MB_INLINE __m512 largest_score(const float *scores, uint32_t n) {
  const __m512 first = _mm512_set1_ps(scores[0]);
  __m512 tops[4] = {first, first, first, first}; /* each waits for itself alone */
  uint32_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (uint32_t j = 0; j < 4; j++) tops[j] = _mm512_max_ps(_mm512_loadu_ps(scores + i + 16 * j), tops[j]);
  for (; i < n; i += 16) {
    const __mmask16 there = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
    tops[0] = _mm512_max_ps(_mm512_mask_loadu_ps(first, there, scores + i), tops[0]);
  }
  const __m512 top = _mm512_max_ps(_mm512_max_ps(tops[0], tops[1]), _mm512_max_ps(tops[2], tops[3]));
  return _mm512_set1_ps(_mm512_reduce_max_ps(top));
}

float mb_avx512_softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  const __m512 top = largest_score(scores, n);
  __m256 sums = _mm256_setzero_ps();
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 e = exp_16(_mm512_sub_ps(_mm512_loadu_ps(scores + i), top));
    _mm512_storeu_ps(scores + i, e);
    sums = _mm256_add_ps(sums, _mm512_castps512_ps256(e));
    sums = _mm256_add_ps(sums, _mm512_extractf32x8_ps(e, 1));
  }
  if (i < n) {
    const __mmask16 there = (__mmask16)((1u << (n - i)) - 1);
    const __m512 score = _mm512_mask_loadu_ps(top, there, scores + i);
    const __m512 e = _mm512_maskz_mov_ps(there, exp_16(_mm512_sub_ps(score, top)));
    _mm512_mask_storeu_ps(scores + i, there, e);
    sums = _mm256_add_ps(sums, _mm512_castps512_ps256(e)); /* + 0 behind the end */
    sums = _mm256_add_ps(sums, _mm512_extractf32x8_ps(e, 1));
  }
  return add_8_parts(sums);
}

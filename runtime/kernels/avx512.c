/* Attention for AVX-512 with VNNI. Compiled with the flags of avx2.c and -mavx512f -mavx512bw -mavx512dq -mavx512vl
 * -mavx512vnni; select.c runs it only where all of them exist. */
#include "kernels/avx512.h"

#include "kernels/avx512_common.h"
#include "kernels/avx512_groups-impl.h"
#include "kernels/exponential.h"

MB_INLINE __m512 exp_16(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(MB_EXP_MIN), x);
  x = _mm512_min_ps(_mm512_set1_ps(MB_EXP_MAX), x);
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

/* The scores i..i+15 of n; the first one stands in for those behind the end. */
MB_INLINE __m512 load_scores(const float *scores, uint32_t i, uint32_t n, __mmask16 *there) {
  *there = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
  return _mm512_mask_loadu_ps(_mm512_set1_ps(scores[0]), *there, scores + i);
}

float mb_avx512_softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  __mmask16 there;
  __m512 top = _mm512_set1_ps(scores[0]);
  for (uint32_t i = 0; i < n; i += 16) top = _mm512_max_ps(load_scores(scores, i, n, &there), top);
  top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
  __m256 sums = _mm256_setzero_ps();
  for (uint32_t i = 0; i < n; i += 16) {
    const __m512 score = load_scores(scores, i, n, &there);
    const __m512 e = _mm512_maskz_mov_ps(there, exp_16(_mm512_sub_ps(score, top)));
    _mm512_mask_storeu_ps(scores + i, there, e);
    sums = _mm256_add_ps(sums, _mm512_castps512_ps256(e));
    sums = _mm256_add_ps(sums, _mm512_extractf32x8_ps(e, 1)); /* + 0 behind the end */
  }
  return add_8_parts(sums);
}

/* The bound of seedlm_search.h, eight places at a time. Fused multiply-add is welcome here, against the rule of the
 * kernels: scores only decide what is evaluated exactly, with an allowance for any order of rounding. */
#include "search/seedlm_search.h"

#if defined(MB_HAVE_AVX2)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define TARGET_INLINE TARGET static inline __attribute__((always_inline))

TARGET_INLINE uint32_t scan(const mb_seedlm_tables *tables, const float *block, uint32_t first, float need,
                            float *scores, uint16_t *found, uint32_t length, uint32_t coefficients) {
  float c[MB_SEEDLM_TILE + 8];
  __m256 b[MB_SEEDLM_LENGTH];
  for (uint32_t i = 0; i < length; i++) b[i] = _mm256_set1_ps(block[i]);
  const float *v = tables->states + first + 1;
  for (uint32_t n = 0; n < MB_SEEDLM_TILE + 8; n += 8, v += 8) {
    __m256 even = _mm256_mul_ps(b[0], _mm256_loadu_ps(v)), odd = _mm256_mul_ps(b[1], _mm256_loadu_ps(v + coefficients));
    for (uint32_t i = 2; i < length; i += 2) {
      even = _mm256_fmadd_ps(b[i], _mm256_loadu_ps(v + i * coefficients), even);
      odd = _mm256_fmadd_ps(b[i + 1], _mm256_loadu_ps(v + (i + 1) * coefficients), odd);
    }
    _mm256_storeu_ps(c + n, _mm256_add_ps(even, odd));
  }
  const __m256 least = _mm256_set1_ps(need);
  uint32_t count = 0;
  const float *factor = tables->bounds + (size_t)first * (coefficients * (coefficients + 1) / 2);
  for (uint32_t n = 0; n < MB_SEEDLM_TILE; n += 8) {
    __m256 score = _mm256_setzero_ps();
    for (uint32_t p = 0; p < coefficients; p++) {
      __m256 z = _mm256_mul_ps(_mm256_loadu_ps(factor), _mm256_loadu_ps(c + n));
      factor += 8;
      for (uint32_t k = 1; k <= p; k++, factor += 8)
        z = _mm256_fmadd_ps(_mm256_loadu_ps(factor), _mm256_loadu_ps(c + n + k), z);
      score = _mm256_fmadd_ps(z, z, score);
    }
    _mm256_storeu_ps(scores + n, score);
    uint32_t mask = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(score, least, _CMP_GE_OQ));
    for (; mask != 0; mask &= mask - 1) found[count++] = (uint16_t)(n + (uint32_t)__builtin_ctz(mask));
  }
  return count;
}

TARGET uint32_t mb_seedlm_scan_avx2(const mb_seedlm_tables *tables, const float *block, uint32_t first, float need,
                                    float *scores, uint16_t *found) {
  return tables->length == 8 ? scan(tables, block, first, need, scores, found, 8, 3)
                             : scan(tables, block, first, need, scores, found, 12, 4);
}
#endif

/* Attention and signs for AVX-512 with VNNI. Compiled with the flags of avx2.c and -mavx512f -mavx512bw -mavx512dq
 * -mavx512vl -mavx512vnni; select.c runs it only where all of them exist. */
#include "kernels/avx512.h"

#include "kernels/avx512_common.h"
#include "kernels/avx512_groups-impl.h"
#include "kernels/avx512_sign-impl.h"
#include "kernels/exponential.h"

enum { EXP_REGISTERS = 6 };

/* exp of x <= 0, or NaN: MB_EXP_MAX is no bound of it. A register's 20 steps wait for each other, some 60 cycles: so
 * every step is taken for `n` registers, a constant. */
MB_INLINE void exp_16(__m512 *x, uint32_t n) {
  __m512 t[EXP_REGISTERS], p[EXP_REGISTERS];
#define EACH for (uint32_t j = 0; j < n; j++)
  EACH x[j] = _mm512_max_ps(_mm512_set1_ps(MB_EXP_MIN), x[j]);
  EACH t[j] = _mm512_mul_ps(x[j], _mm512_set1_ps(MB_EXP_LOG2E));
  EACH t[j] = _mm512_add_ps(t[j], _mm512_set1_ps(MB_EXP_ROUND));
  EACH p[j] = _mm512_sub_ps(t[j], _mm512_set1_ps(MB_EXP_ROUND));
  EACH x[j] = _mm512_fnmadd_ps(p[j], _mm512_set1_ps(MB_EXP_LN2_HIGH), x[j]); /* the product is exact */
  EACH x[j] = _mm512_sub_ps(x[j], _mm512_mul_ps(p[j], _mm512_set1_ps(MB_EXP_LN2_LOW)));
  EACH p[j] = _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(MB_EXP_C5), x[j]), _mm512_set1_ps(MB_EXP_C4));
  EACH p[j] = _mm512_add_ps(_mm512_mul_ps(p[j], x[j]), _mm512_set1_ps(MB_EXP_C3));
  EACH p[j] = _mm512_add_ps(_mm512_mul_ps(p[j], x[j]), _mm512_set1_ps(MB_EXP_C2));
  EACH p[j] = _mm512_add_ps(_mm512_mul_ps(p[j], x[j]), _mm512_set1_ps(MB_EXP_C1));
  EACH p[j] = _mm512_add_ps(_mm512_mul_ps(p[j], x[j]), _mm512_set1_ps(1.0f));
  EACH x[j] = _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p[j]), _mm512_slli_epi32(_mm512_castps_si512(t[j]), 23)));
#undef EACH
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

/* Adds 16 terms to the sums of every eighth. */
MB_INLINE __m256 add_terms(__m256 sums, __m512 terms) {
  sums = _mm256_add_ps(sums, _mm512_castps512_ps256(terms));
  return _mm256_add_ps(sums, _mm512_extractf32x8_ps(terms, 1));
}

float mb_avx512_softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  const __m512 top = largest_score(scores, n);
  __m256 sums = _mm256_setzero_ps();
  __m512 e[EXP_REGISTERS];
  uint32_t i = 0;
  for (; i + 16 * EXP_REGISTERS <= n; i += 16 * EXP_REGISTERS) {
    for (uint32_t j = 0; j < EXP_REGISTERS; j++) e[j] = _mm512_sub_ps(_mm512_loadu_ps(scores + i + 16 * j), top);
    exp_16(e, EXP_REGISTERS);
    for (uint32_t j = 0; j < EXP_REGISTERS; j++) {
      _mm512_storeu_ps(scores + i + 16 * j, e[j]);
      sums = add_terms(sums, e[j]);
    }
  }
  for (; i < n; i += 16) {
    const __mmask16 there = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
    e[0] = _mm512_sub_ps(_mm512_mask_loadu_ps(top, there, scores + i), top);
    exp_16(e, 1);
    _mm512_mask_storeu_ps(scores + i, there, e[0]);
    sums = add_terms(sums, _mm512_maskz_mov_ps(there, e[0])); /* + 0 behind the end */
  }
  return add_8_parts(sums);
}

/* A stage of turn: sums, but where `differences` has a bit the other value less this one. */
MB_INLINE __m512 turn_stage(__m512 v, __m512 others, __mmask16 differences) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i turned = _mm512_mask_xor_epi32(bits, differences, bits, _mm512_set1_epi32((int)0x80000000));
  return _mm512_add_ps(others, _mm512_castsi512_ps(turned));
}

void mb_avx512_turn(float *v, uint32_t blocks) {
  const __m512 scale = _mm512_set1_ps(MB_TURN_SCALE);
  for (; blocks > 0; blocks--, v += MB_KV_BLOCK) {
    __m512 half[2];
    for (uint32_t i = 0; i < 2; i++) {
      __m512 x = _mm512_loadu_ps(v + 16 * i);
      x = turn_stage(x, _mm512_permute_ps(x, 0xb1), 0xaaaa);
      x = turn_stage(x, _mm512_permute_ps(x, 0x4e), 0xcccc);
      x = turn_stage(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0);
      half[i] = turn_stage(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00);
    }
    _mm512_storeu_ps(v, _mm512_mul_ps(_mm512_add_ps(half[0], half[1]), scale));
    _mm512_storeu_ps(v + 16, _mm512_mul_ps(_mm512_sub_ps(half[0], half[1]), scale));
  }
}

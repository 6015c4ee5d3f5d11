/* Quantisation and the vector functions, AVX2.
 *
 * A fragment of avx2.c. It defines quantise(), sum_squares(), silu_multiply(), gelu_multiply() and
 * softmax_terms(), the table's entries.
 */
#ifndef MB_KERNELS_AVX2_FUNCTIONS_IMPL_H
#define MB_KERNELS_AVX2_FUNCTIONS_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/exponential.h"
#include "kernels/quantise.h"

/* ---- activations; groups are multiples of 32 columns ---- */

static uint32_t largest_magnitude(const float *values, uint32_t columns) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i a = _mm256_setzero_si256(), b = a;
  for (uint32_t c = 0; c < columns; c += 16) {
    a = _mm256_max_epi32(a, _mm256_and_si256(load_bytes(values + c), magnitude));
    b = _mm256_max_epi32(b, _mm256_and_si256(load_bytes(values + c + 8), magnitude));
  }
  a = _mm256_max_epi32(a, b);
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return (uint32_t)_mm_cvtsi128_si32(m);
}

static void quantise_group(const float *values, uint32_t columns, int8_t *codes, float *scale, int32_t *sum) {
  mb_group_scale s = mb_scale_of_maximum(largest_magnitude(values, columns));
  *scale = s.scale;
  *sum = 0;
  if (s.inverse == 0) {
    memset(codes, 0, columns);
    return;
  }
  const __m256 inverse = _mm256_set1_ps(s.inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), one8 = _mm256_set1_epi8(1);
  const __m256i one16 = _mm256_set1_epi16(1);
  __m256i sums = _mm256_setzero_si256();
  for (uint32_t c = 0; c < columns; c += 32) {
    __m256i q[4]; /* cvtps rounds to nearest even, as the definition's addition does */
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + c + 8 * i), inverse));
    __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    packed = _mm256_permutevar8x32_epi32(packed, order); /* the packs work on halves */
    _mm256_storeu_si256((__m256i *)(void *)(codes + c), packed);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(one8, packed), one16));
  }
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  *sum = _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

#include "kernels/quantise-impl.h"

/* ---- vector functions; see exponential.h ---- */

enum { EXP_REGISTERS = 4 };

/* exp of `n` registers, a constant: a register's 20 steps wait for each other, so every step is taken for all of them.
 */
MB_INLINE void exp_8(__m256 *x, uint32_t n) {
  __m256 t[EXP_REGISTERS], p[EXP_REGISTERS];
#define EACH for (uint32_t j = 0; j < n; j++)
  EACH x[j] = _mm256_max_ps(_mm256_set1_ps(MB_EXP_MIN), x[j]);
  EACH x[j] = _mm256_min_ps(_mm256_set1_ps(MB_EXP_MAX), x[j]);
  EACH t[j] = _mm256_add_ps(_mm256_mul_ps(x[j], _mm256_set1_ps(MB_EXP_LOG2E)), _mm256_set1_ps(MB_EXP_ROUND));
  EACH p[j] = _mm256_sub_ps(t[j], _mm256_set1_ps(MB_EXP_ROUND));
  EACH x[j] = _mm256_sub_ps(x[j], _mm256_mul_ps(p[j], _mm256_set1_ps(MB_EXP_LN2_HIGH)));
  EACH x[j] = _mm256_sub_ps(x[j], _mm256_mul_ps(p[j], _mm256_set1_ps(MB_EXP_LN2_LOW)));
  EACH p[j] = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(MB_EXP_C5), x[j]), _mm256_set1_ps(MB_EXP_C4));
  EACH p[j] = _mm256_add_ps(_mm256_mul_ps(p[j], x[j]), _mm256_set1_ps(MB_EXP_C3));
  EACH p[j] = _mm256_add_ps(_mm256_mul_ps(p[j], x[j]), _mm256_set1_ps(MB_EXP_C2));
  EACH p[j] = _mm256_add_ps(_mm256_mul_ps(p[j], x[j]), _mm256_set1_ps(MB_EXP_C1));
  EACH p[j] = _mm256_add_ps(_mm256_mul_ps(p[j], x[j]), _mm256_set1_ps(1.0f));
  EACH x[j] = _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p[j]), _mm256_slli_epi32(_mm256_castps_si256(t[j]), 23)));
#undef EACH
}

static float sum_squares(const float *v, uint32_t n) {
  __m256 sums = _mm256_setzero_ps();
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 a = _mm256_loadu_ps(v + i);
    sums = _mm256_add_ps(sums, _mm256_mul_ps(a, a));
  }
  if (i < n) { /* the zeros' squares change no sum: none is -0 */
    float last[8] = {0};
    memcpy(last, v + i, (n - i) * sizeof *v);
    __m256 a = _mm256_loadu_ps(last);
    sums = _mm256_add_ps(sums, _mm256_mul_ps(a, a));
  }
  return add_8_parts(sums);
}

/* Of `registers` times 8 values; gelu and registers are constants. */
MB_INLINE void gate_multiply_8(float *gate, const float *up, uint32_t registers, bool gelu) {
  __m256 g[EXP_REGISTERS], e[EXP_REGISTERS];
  for (uint32_t j = 0; j < registers; j++) {
    __m256 u = g[j] = _mm256_loadu_ps(gate + 8 * j);
    if (gelu) {
      u = _mm256_mul_ps(_mm256_set1_ps(MB_GELU_CUBIC), _mm256_mul_ps(u, u));
      u = _mm256_mul_ps(g[j], _mm256_add_ps(u, _mm256_set1_ps(MB_GELU_LINEAR)));
    }
    e[j] = _mm256_xor_ps(u, _mm256_set1_ps(-0.0f));
  }
  exp_8(e, registers);
  for (uint32_t j = 0; j < registers; j++) {
    const __m256 quotient = _mm256_div_ps(g[j], _mm256_add_ps(_mm256_set1_ps(1.0f), e[j]));
    _mm256_storeu_ps(gate + 8 * j, _mm256_mul_ps(quotient, _mm256_loadu_ps(up + 8 * j)));
  }
}

MB_INLINE void gate_multiply(float *gate, const float *up, uint32_t n, bool gelu) {
  uint32_t i = 0;
  for (; i + 8 * EXP_REGISTERS <= n; i += 8 * EXP_REGISTERS) gate_multiply_8(gate + i, up + i, EXP_REGISTERS, gelu);
  for (; i + 8 <= n; i += 8) gate_multiply_8(gate + i, up + i, 1, gelu);
  if (i < n) {
    float g[8] = {0}, u[8] = {0};
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    gate_multiply_8(g, u, 1, gelu);
    memcpy(gate + i, g, (n - i) * sizeof *g);
  }
}

static void silu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, false); }

static void gelu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, true); }

/* The largest of the scores, or NaN where the first one is. */
static float largest_score(const float *scores, uint32_t n) {
  const __m256 first = _mm256_set1_ps(scores[0]);
  __m256 tops[4] = {first, first, first, first}; /* each waits for itself alone */
  uint32_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (uint32_t j = 0; j < 4; j++) tops[j] = _mm256_max_ps(_mm256_loadu_ps(scores + i + 8 * j), tops[j]);
  float last[8], maximum = scores[0];
  _mm256_storeu_ps(last, _mm256_max_ps(_mm256_max_ps(tops[0], tops[1]), _mm256_max_ps(tops[2], tops[3])));
  for (int j = 0; j < 8; j++) maximum = last[j] > maximum ? last[j] : maximum;
  for (; i < n; i++) maximum = scores[i] > maximum ? scores[i] : maximum;
  return maximum;
}

static float softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  const __m256 top = _mm256_set1_ps(largest_score(scores, n));
  __m256 sums = _mm256_setzero_ps(), e[EXP_REGISTERS];
  uint32_t i = 0;
  for (; i + 8 * EXP_REGISTERS <= n; i += 8 * EXP_REGISTERS) {
    for (uint32_t j = 0; j < EXP_REGISTERS; j++) e[j] = _mm256_sub_ps(_mm256_loadu_ps(scores + i + 8 * j), top);
    exp_8(e, EXP_REGISTERS);
    for (uint32_t j = 0; j < EXP_REGISTERS; j++) {
      _mm256_storeu_ps(scores + i + 8 * j, e[j]);
      sums = _mm256_add_ps(sums, e[j]);
    }
  }
  for (; i < n; i += 8) {
    float last[8] = {0};
    const uint32_t some = n - i < 8 ? n - i : 8;
    memcpy(last, scores + i, some * sizeof *last);
    e[0] = _mm256_sub_ps(_mm256_loadu_ps(last), top);
    exp_8(e, 1);
    _mm256_storeu_ps(last, e[0]);
    memset(last + some, 0, (8 - some) * sizeof *last);
    memcpy(scores + i, last, some * sizeof *last);
    sums = _mm256_add_ps(sums, _mm256_loadu_ps(last));
  }
  return add_8_parts(sums);
}

/* A stage of turn: sums, but where `differences` has a sign the other value less this one. */
MB_INLINE __m256 turn_stage(__m256 v, __m256 others, __m256 differences) {
  return _mm256_add_ps(others, _mm256_xor_ps(v, differences));
}

static void turn(float *v, uint32_t blocks) {
  const __m256 scale = _mm256_set1_ps(MB_TURN_SCALE), s = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
  const __m256 ones = _mm256_blend_ps(zero, s, 0xaa), twos = _mm256_blend_ps(zero, s, 0xcc);
  const __m256 fours = _mm256_blend_ps(zero, s, 0xf0);
  for (; blocks > 0; blocks--, v += MB_KV_BLOCK) {
    __m256 q[4];
    for (uint32_t i = 0; i < 4; i++) {
      q[i] = _mm256_loadu_ps(v + 8 * i);
      q[i] = turn_stage(q[i], _mm256_permute_ps(q[i], 0xb1), ones);
      q[i] = turn_stage(q[i], _mm256_permute_ps(q[i], 0x4e), twos);
      q[i] = turn_stage(q[i], _mm256_permute2f128_ps(q[i], q[i], 1), fours);
    }
    const __m256 a = _mm256_add_ps(q[0], q[1]), b = _mm256_sub_ps(q[0], q[1]);
    const __m256 c = _mm256_add_ps(q[2], q[3]), d = _mm256_sub_ps(q[2], q[3]);
    _mm256_storeu_ps(v, _mm256_mul_ps(_mm256_add_ps(a, c), scale));
    _mm256_storeu_ps(v + 8, _mm256_mul_ps(_mm256_add_ps(b, d), scale));
    _mm256_storeu_ps(v + 16, _mm256_mul_ps(_mm256_sub_ps(a, c), scale));
    _mm256_storeu_ps(v + 24, _mm256_mul_ps(_mm256_sub_ps(b, d), scale));
  }
}

#endif

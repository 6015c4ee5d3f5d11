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

MB_INLINE __m256 exp_8(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(MB_EXP_MIN), x);
  x = _mm256_min_ps(_mm256_set1_ps(MB_EXP_MAX), x);
  __m256 t = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(MB_EXP_LOG2E)), _mm256_set1_ps(MB_EXP_ROUND));
  __m256 n = _mm256_sub_ps(t, _mm256_set1_ps(MB_EXP_ROUND));
  __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(MB_EXP_LN2_HIGH)));
  r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(MB_EXP_LN2_LOW)));
  __m256 p = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(MB_EXP_C5), r), _mm256_set1_ps(MB_EXP_C4));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(MB_EXP_C3));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(MB_EXP_C2));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(MB_EXP_C1));
  p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(1.0f));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
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

/* gelu: a constant. */
MB_INLINE void gate_multiply_8(float *gate, const float *up, bool gelu) {
  __m256 g = _mm256_loadu_ps(gate), u = g;
  if (gelu) {
    u = _mm256_mul_ps(_mm256_set1_ps(MB_GELU_CUBIC), _mm256_mul_ps(g, g));
    u = _mm256_mul_ps(g, _mm256_add_ps(u, _mm256_set1_ps(MB_GELU_LINEAR)));
  }
  __m256 minus = _mm256_xor_ps(u, _mm256_set1_ps(-0.0f));
  __m256 product = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), exp_8(minus)));
  _mm256_storeu_ps(gate, _mm256_mul_ps(product, _mm256_loadu_ps(up)));
}

MB_INLINE void gate_multiply(float *gate, const float *up, uint32_t n, bool gelu) {
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) gate_multiply_8(gate + i, up + i, gelu);
  if (i < n) {
    float g[8] = {0}, u[8] = {0};
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    gate_multiply_8(g, u, gelu);
    memcpy(gate + i, g, (n - i) * sizeof *g);
  }
}

static void silu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, false); }

static void gelu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, true); }

static float softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  float maximum = scores[0], last[8] = {0};
  uint32_t i = 0;
  __m256 top = _mm256_set1_ps(scores[0]), sums = _mm256_setzero_ps();
  for (; i + 8 <= n; i += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + i));
  _mm256_storeu_ps(last, top);
  for (int j = 0; j < 8; j++) maximum = last[j] > maximum ? last[j] : maximum;
  for (; i < n; i++) maximum = scores[i] > maximum ? scores[i] : maximum;

  top = _mm256_set1_ps(maximum);
  for (i = 0; i + 8 <= n; i += 8) {
    __m256 e = exp_8(_mm256_sub_ps(_mm256_loadu_ps(scores + i), top));
    _mm256_storeu_ps(scores + i, e);
    sums = _mm256_add_ps(sums, e);
  }
  if (i < n) {
    memcpy(last, scores + i, (n - i) * sizeof *last);
    _mm256_storeu_ps(last, exp_8(_mm256_sub_ps(_mm256_loadu_ps(last), top)));
    memset(last + (n - i), 0, (8 - (n - i)) * sizeof *last);
    memcpy(scores + i, last, (n - i) * sizeof *last);
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

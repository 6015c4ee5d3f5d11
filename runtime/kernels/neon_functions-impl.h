/* Quantisation and the vector functions, NEON.
 *
 * A fragment of neon.c and neon_dotprod.c. It defines quantise(), sum_squares(), silu_multiply(), gelu_multiply() and
 * softmax_terms(),
 * the table's entries. */
#ifndef MB_KERNELS_NEON_FUNCTIONS_IMPL_H
#define MB_KERNELS_NEON_FUNCTIONS_IMPL_H

#include "kernels/exponential.h"
#include "kernels/neon_common.h"
#include "kernels/quantise.h"

/* ---- activations; groups are multiples of 32 columns ---- */

static uint32_t largest_magnitude(const float *values, uint32_t columns) {
  const uint32x4_t magnitude = vdupq_n_u32(0x7fffffff);
  uint32x4_t a = vdupq_n_u32(0), b = a;
  for (uint32_t c = 0; c < columns; c += 8) {
    a = vmaxq_u32(a, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(values + c)), magnitude));
    b = vmaxq_u32(b, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(values + c + 4)), magnitude));
  }
  a = vmaxq_u32(a, b);
  uint32x2_t m = vmax_u32(vget_low_u32(a), vget_high_u32(a));
  m = vpmax_u32(m, m);
  return vget_lane_u32(m, 0);
}

MB_INLINE int16x4_t quantise_4(const float *values, float32x4_t inverse) {
  const float32x4_t rounded = vaddq_f32(vmulq_f32(vld1q_f32(values), inverse), vdupq_n_f32(MB_ROUND_TO_INTEGER));
  return vmovn_s32(vsubq_s32(vreinterpretq_s32_f32(rounded), vdupq_n_s32(MB_ROUND_TO_INTEGER_BITS)));
}

static void quantise_group(const float *values, uint32_t columns, int8_t *codes, float *scale, int32_t *sum) {
  const mb_group_scale s = mb_scale_of_maximum(largest_magnitude(values, columns));
  *scale = s.scale;
  *sum = 0;
  if (s.inverse == 0) {
    memset(codes, 0, columns);
    return;
  }
  const float32x4_t inverse = vdupq_n_f32(s.inverse);
  int32x4_t sums = vdupq_n_s32(0);
  for (uint32_t c = 0; c < columns; c += 8) {
    const int16x8_t q = vcombine_s16(quantise_4(values + c, inverse), quantise_4(values + c + 4, inverse));
    vst1_s8(codes + c, vmovn_s16(q));
    sums = vpadalq_s16(sums, q);
  }
  sums = pairwise_add(sums, sums);
  *sum = vgetq_lane_s32(sums, 0) + vgetq_lane_s32(sums, 1);
}

#include "kernels/quantise-impl.h"

/* ---- vector functions; see exponential.h ---- */

#if defined(__aarch64__)
enum { EXP_REGISTERS = 4 };
#else
enum { EXP_REGISTERS = 2 };
#endif

MB_INLINE float32x4_t multiply_add(float32x4_t a, float32x4_t b, float c) {
  return vaddq_f32(vmulq_f32(a, b), vdupq_n_f32(c));
}

/* exp of `n` registers, a constant: a register's 20 steps wait for each other, and small cores do nothing meanwhile; so
 * every step is taken for all of them. */
MB_INLINE void exp_4(float32x4_t *x, uint32_t n) {
  float32x4_t t[EXP_REGISTERS], p[EXP_REGISTERS];
#define EACH for (uint32_t j = 0; j < n; j++)
  EACH x[j] = vmaxq_f32(vdupq_n_f32(MB_EXP_MIN), x[j]);
  EACH x[j] = vminq_f32(vdupq_n_f32(MB_EXP_MAX), x[j]);
  EACH t[j] = multiply_add(x[j], vdupq_n_f32(MB_EXP_LOG2E), MB_EXP_ROUND);
  EACH p[j] = vsubq_f32(t[j], vdupq_n_f32(MB_EXP_ROUND));
  EACH x[j] = vsubq_f32(x[j], vmulq_f32(p[j], vdupq_n_f32(MB_EXP_LN2_HIGH)));
  EACH x[j] = vsubq_f32(x[j], vmulq_f32(p[j], vdupq_n_f32(MB_EXP_LN2_LOW)));
  EACH p[j] = multiply_add(vdupq_n_f32(MB_EXP_C5), x[j], MB_EXP_C4);
  EACH p[j] = multiply_add(p[j], x[j], MB_EXP_C3);
  EACH p[j] = multiply_add(p[j], x[j], MB_EXP_C2);
  EACH p[j] = multiply_add(p[j], x[j], MB_EXP_C1);
  EACH p[j] = multiply_add(p[j], x[j], 1.0f);
  EACH x[j] =
      vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p[j]), vshlq_n_s32(vreinterpretq_s32_f32(t[j]), 23)));
#undef EACH
}

static float sum_squares(const float *v, uint32_t n) {
  float32x4_t low = vdupq_n_f32(0), high = low;
  float last[8] = {0}; /* zeros' squares change no sum: none is -0 */
  for (uint32_t i = 0; i < n; i += 8, v += 8) {
    if (n - i < 8) {
      memcpy(last, v, (n - i) * sizeof *v);
      v = last;
    }
    const float32x4_t a = vld1q_f32(v), b = vld1q_f32(v + 4);
    low = vaddq_f32(low, vmulq_f32(a, a));
    high = vaddq_f32(high, vmulq_f32(b, b));
  }
  return add_8_parts(low, high);
}

/* Of `registers` times 4 values; gelu and registers are constants. */
MB_INLINE void gate_multiply_4(float *gate, const float *up, uint32_t registers, bool gelu) {
  float32x4_t g[EXP_REGISTERS], e[EXP_REGISTERS];
  for (uint32_t j = 0; j < registers; j++) {
    float32x4_t u = g[j] = vld1q_f32(gate + 4 * j);
    if (gelu) u = vmulq_f32(u, multiply_add(vdupq_n_f32(MB_GELU_CUBIC), vmulq_f32(u, u), MB_GELU_LINEAR));
    e[j] = vnegq_f32(u);
  }
  exp_4(e, registers);
  for (uint32_t j = 0; j < registers; j++) {
    const float32x4_t divisor = vaddq_f32(vdupq_n_f32(1.0f), e[j]);
#if defined(__aarch64__)
    vst1q_f32(gate + 4 * j, vmulq_f32(vdivq_f32(g[j], divisor), vld1q_f32(up + 4 * j)));
#else
    float d[4]; /* armv7 divides in VFP, one by one; subnormal results stay as they are there */
    vst1q_f32(d, divisor);
    for (uint32_t i = 4 * j; i < 4 * j + 4; i++) gate[i] = gate[i] / d[i % 4] * up[i];
#endif
  }
}

MB_INLINE void gate_multiply(float *gate, const float *up, uint32_t n, bool gelu) {
  uint32_t i = 0;
  for (; i + 4 * EXP_REGISTERS <= n; i += 4 * EXP_REGISTERS) gate_multiply_4(gate + i, up + i, EXP_REGISTERS, gelu);
  for (; i + 4 <= n; i += 4) gate_multiply_4(gate + i, up + i, 1, gelu);
  if (i < n) {
    float g[4] = {0}, u[4] = {0};
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    gate_multiply_4(g, u, 1, gelu);
    memcpy(gate + i, g, (n - i) * sizeof *g);
  }
}

static void silu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, false); }

static void gelu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, true); }

static float largest_score(const float *scores, uint32_t n) {
  const float32x4_t first = vdupq_n_f32(scores[0]);
  float32x4_t tops[4] = {first, first, first, first}; /* each waits for itself alone */
  float last[4], maximum = scores[0];
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (uint32_t j = 0; j < 4; j++) tops[j] = vmaxq_f32(tops[j], vld1q_f32(scores + i + 4 * j));
  vst1q_f32(last, vmaxq_f32(vmaxq_f32(tops[0], tops[1]), vmaxq_f32(tops[2], tops[3])));
  for (int j = 0; j < 4; j++) maximum = last[j] > maximum ? last[j] : maximum;
  for (; i < n; i++) maximum = scores[i] > maximum ? scores[i] : maximum;
  return maximum;
}

/* The terms of 4 * registers scores in place, added to the sums of every eighth: sums[0] holds those of the lower four.
 * registers: a constant, even. */
MB_INLINE void soften_4(float *scores, float32x4_t top, uint32_t registers, float32x4_t sums[2]) {
  float32x4_t e[EXP_REGISTERS];
  for (uint32_t j = 0; j < registers; j++) e[j] = vsubq_f32(vld1q_f32(scores + 4 * j), top);
  exp_4(e, registers);
  for (uint32_t j = 0; j < registers; j++) {
    vst1q_f32(scores + 4 * j, e[j]);
    sums[j % 2] = vaddq_f32(sums[j % 2], e[j]);
  }
}

static float softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  const float32x4_t top = vdupq_n_f32(largest_score(scores, n));
  float32x4_t sums[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
  uint32_t i = 0;
  for (; i + 4 * EXP_REGISTERS <= n; i += 4 * EXP_REGISTERS) soften_4(scores + i, top, EXP_REGISTERS, sums);
  for (; i + 8 <= n; i += 8) soften_4(scores + i, top, 2, sums);
  if (i < n) {
    float last[8] = {0};
    float32x4_t e[EXP_REGISTERS];
    memcpy(last, scores + i, (n - i) * sizeof *last);
    for (uint32_t j = 0; j < 2; j++) e[j] = vsubq_f32(vld1q_f32(last + 4 * j), top);
    exp_4(e, 2);
    for (uint32_t j = 0; j < 2; j++) vst1q_f32(last + 4 * j, e[j]);
    memset(last + (n - i), 0, (8 - (n - i)) * sizeof *last);
    memcpy(scores + i, last, (n - i) * sizeof *last);
    for (uint32_t j = 0; j < 2; j++) sums[j] = vaddq_f32(sums[j], vld1q_f32(last + 4 * j));
  }
  return add_8_parts(sums[0], sums[1]);
}

#endif

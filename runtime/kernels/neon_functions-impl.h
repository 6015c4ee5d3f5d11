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

MB_INLINE float32x4_t multiply_add(float32x4_t a, float32x4_t b, float c) {
  return vaddq_f32(vmulq_f32(a, b), vdupq_n_f32(c));
}

MB_INLINE float32x4_t exp_4(float32x4_t x) {
  x = vmaxq_f32(vdupq_n_f32(MB_EXP_MIN), x);
  x = vminq_f32(vdupq_n_f32(MB_EXP_MAX), x);
  const float32x4_t t = multiply_add(x, vdupq_n_f32(MB_EXP_LOG2E), MB_EXP_ROUND);
  const float32x4_t n = vsubq_f32(t, vdupq_n_f32(MB_EXP_ROUND));
  float32x4_t r = vsubq_f32(x, vmulq_f32(n, vdupq_n_f32(MB_EXP_LN2_HIGH)));
  r = vsubq_f32(r, vmulq_f32(n, vdupq_n_f32(MB_EXP_LN2_LOW)));
  float32x4_t p = multiply_add(vdupq_n_f32(MB_EXP_C5), r, MB_EXP_C4);
  p = multiply_add(p, r, MB_EXP_C3);
  p = multiply_add(p, r, MB_EXP_C2);
  p = multiply_add(p, r, MB_EXP_C1);
  p = multiply_add(p, r, 1.0f);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vreinterpretq_s32_f32(t), 23)));
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

/* gelu: a constant. */
MB_INLINE void gate_multiply_4(float *gate, const float *up, bool gelu) {
  const float32x4_t g = vld1q_f32(gate);
  float32x4_t u = g;
  if (gelu) u = vmulq_f32(g, multiply_add(vdupq_n_f32(MB_GELU_CUBIC), vmulq_f32(g, g), MB_GELU_LINEAR));
  const float32x4_t divisor = vaddq_f32(vdupq_n_f32(1.0f), exp_4(vnegq_f32(u)));
#if defined(__aarch64__)
  vst1q_f32(gate, vmulq_f32(vdivq_f32(g, divisor), vld1q_f32(up)));
#else
  float d[4]; /* armv7 divides in VFP, one by one; subnormal results stay as they are there */
  vst1q_f32(d, divisor);
  for (int i = 0; i < 4; i++) gate[i] = gate[i] / d[i] * up[i];
#endif
}

MB_INLINE void gate_multiply(float *gate, const float *up, uint32_t n, bool gelu) {
  uint32_t i = 0;
  for (; i + 4 <= n; i += 4) gate_multiply_4(gate + i, up + i, gelu);
  if (i < n) {
    float g[4] = {0}, u[4] = {0};
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    gate_multiply_4(g, u, gelu);
    memcpy(gate + i, g, (n - i) * sizeof *g);
  }
}

static void silu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, false); }

static void gelu_multiply(float *gate, const float *up, uint32_t n) { gate_multiply(gate, up, n, true); }

static float softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  float maximum = scores[0], last[8];
  uint32_t i = 0;
  float32x4_t top = vdupq_n_f32(scores[0]), low = vdupq_n_f32(0), high = low;
  for (; i + 4 <= n; i += 4) top = vmaxq_f32(top, vld1q_f32(scores + i));
  vst1q_f32(last, top);
  for (int j = 0; j < 4; j++) maximum = last[j] > maximum ? last[j] : maximum;
  for (; i < n; i++) maximum = scores[i] > maximum ? scores[i] : maximum;

  top = vdupq_n_f32(maximum);
  for (i = 0; i + 8 <= n; i += 8) {
    const float32x4_t a = exp_4(vsubq_f32(vld1q_f32(scores + i), top));
    const float32x4_t b = exp_4(vsubq_f32(vld1q_f32(scores + i + 4), top));
    vst1q_f32(scores + i, a);
    vst1q_f32(scores + i + 4, b);
    low = vaddq_f32(low, a);
    high = vaddq_f32(high, b);
  }
  if (i < n) {
    memset(last, 0, sizeof last);
    memcpy(last, scores + i, (n - i) * sizeof *last);
    vst1q_f32(last, exp_4(vsubq_f32(vld1q_f32(last), top)));
    vst1q_f32(last + 4, exp_4(vsubq_f32(vld1q_f32(last + 4), top)));
    memset(last + (n - i), 0, (8 - (n - i)) * sizeof *last);
    memcpy(scores + i, last, (n - i) * sizeof *last);
    low = vaddq_f32(low, vld1q_f32(last));
    high = vaddq_f32(high, vld1q_f32(last + 4));
  }
  return add_8_parts(low, high);
}

#endif

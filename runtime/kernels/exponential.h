/* exp(x) for softmax, SiLU and GELU: the same operations in the same order in every kernel, so the bits agree
 * everywhere.
 *
 *   x' = min(88, max(-87, x))                        results stay normal numbers: armv7's NEON flushes the others
 *   t  = x' * log2(e) + 1.5 * 2^23;  n = t - 1.5 * 2^23          n = x' / ln 2 rounded, also in the low bits of t
 *   r  = (x' - n * LN2_HIGH) - n * LN2_LOW                       n * LN2_HIGH is exact
 *   p  = ((((C5 * r + C4) * r + C3) * r + C2) * r + C1) * r + 1  minimax on |r| <= ln 2 / 2, relative error 1e-7
 *   exp = p with n added to its exponent: bits(p) + (bits(t) << 23)
 *
 * GELU by tanh is x / (1 + exp(-u)) with u = 2 sqrt(2 / pi) (x + 0.044715 x^3) = x * (GELU_CUBIC * (x * x) +
 * GELU_LINEAR), because 1 + tanh(y) = 2 / (1 + exp(-2 y)).
 */
#ifndef MB_KERNELS_EXPONENTIAL_H
#define MB_KERNELS_EXPONENTIAL_H

#include "base/half.h"

#define MB_EXP_MIN (-87.0f)
#define MB_EXP_MAX 88.0f
#define MB_EXP_LOG2E 0x1.715476p+0f
#define MB_EXP_ROUND 0x1.8p+23f
#define MB_EXP_LN2_HIGH 0x1.62e4p-1f
#define MB_EXP_LN2_LOW 0x1.7f7d1cp-20f
#define MB_EXP_C5 0x1.0fa7d8p-7f
#define MB_EXP_C4 0x1.573adp-5f
#define MB_EXP_C3 0x1.555a6ep-3f
#define MB_EXP_C2 0x1.fffdc4p-2f
#define MB_EXP_C1 0x1.fffff6p-1f
#define MB_GELU_LINEAR 0x1.988454p+0f
#define MB_GELU_CUBIC 0x1.2444f2p-4f

static inline float mb_exp(float x) {
  x = MB_EXP_MIN > x ? MB_EXP_MIN : x;
  x = MB_EXP_MAX < x ? MB_EXP_MAX : x;
  float t = x * MB_EXP_LOG2E + MB_EXP_ROUND;
  float n = t - MB_EXP_ROUND;
  float r = (x - n * MB_EXP_LN2_HIGH) - n * MB_EXP_LN2_LOW;
  float p = MB_EXP_C5 * r + MB_EXP_C4;
  p = p * r + MB_EXP_C3;
  p = p * r + MB_EXP_C2;
  p = p * r + MB_EXP_C1;
  p = p * r + 1.0f;
  return mb_bits_float(mb_float_bits(p) + (mb_float_bits(t) << 23));
}

#endif

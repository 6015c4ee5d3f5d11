/* What the NEON files share, for aarch64 and for armv7 with NEON from one source. armv7 lacks pairwise adds of whole
 * registers and vector division, its fp16 conversions are an extension, and its NEON flushes subnormal numbers. */
#ifndef MB_KERNELS_NEON_COMMON_H
#define MB_KERNELS_NEON_COMMON_H

#include <arm_neon.h>
#include <string.h>

#include "base/half.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"
#include "packed/layout.h"

#define MB_INLINE static inline __attribute__((always_inline))

MB_INLINE int32x4_t pairwise_add(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
  return vpaddq_s32(a, b);
#else
  return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)), vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

/* Four columns of a vector, for four rows of codes. That its halves are equal is hidden: clang would otherwise use the
 * low one alone, and move the high half of every register of codes down to meet it (a fifth more instructions). */
MB_INLINE int8x16_t broadcast_4(const int8_t *x) {
  int8x16_t four = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)x));
  __asm__("" : "+w"(four));
  return four;
}

MB_INLINE float32x4_t four_f16(uint16x4_t h) {
#if defined(__aarch64__)
  return vcvt_f32_f16(vreinterpret_f16_u16(h));
#else
  /* As mb_f16_to_f32, in integers: plain NEON has no fp16. */
  const uint32x4_t wide = vmovl_u16(h), magnitude = vandq_u32(wide, vdupq_n_u32(0x7fff));
  const uint32x4_t sign = vshlq_n_u32(vandq_u32(wide, vdupq_n_u32(0x8000)), 16), rebias = vdupq_n_u32(112u << 23);
  uint32x4_t normal = vaddq_u32(vshlq_n_u32(magnitude, 13), rebias);
  normal = vaddq_u32(normal, vandq_u32(vcgeq_u32(magnitude, vdupq_n_u32(0x7c00)), rebias)); /* infinity, NaN */
  const uint32x4_t small = vreinterpretq_u32_f32(vmulq_f32(vcvtq_f32_u32(magnitude), vdupq_n_f32(0x1p-24f)));
  const uint32x4_t bits = vbslq_u32(vcgeq_u32(magnitude, vdupq_n_u32(0x0400)), normal, small);
  return vreinterpretq_f32_u32(vorrq_u32(bits, sign));
#endif
}

MB_INLINE float32x4_t load_4_f16(const void *p) { return four_f16(vld1_u16((const uint16_t *)p)); }

/* Scales of the rows 4 * j .. 4 * j + 3 of a record; flags: the matrix's. */
MB_INLINE float32x4_t load_4_scales(const uint8_t *record, int j, uint32_t flags) {
  if ((flags & MB_FLAG_E4M4) == 0) return load_4_f16(record + 8 * j);
  const uint8x8_t codes = vreinterpret_u8_u32(vld1_dup_u32((const uint32_t *)(const void *)(record + 4 * j)));
  return four_f16(vget_low_u16(vshll_n_u8(codes, MB_E4M4_SHIFT)));
}

/* Zero points of the same rows, in units of mb_zero_unit. */
MB_INLINE float32x4_t load_4_zeros(const uint8_t *record, int j) {
  const uint8x8_t bytes = vreinterpret_u8_u32(vld1_dup_u32((const uint32_t *)(const void *)(record + 16 + 4 * j)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}

/* Byte index[i] of the table; indices are below 16. */
MB_INLINE uint8x16_t look_up(uint8x16_t table, uint8x16_t index) {
#if defined(__aarch64__)
  return vqtbl1q_u8(table, index);
#else
  const uint8x8x2_t two = {{vget_low_u8(table), vget_high_u8(table)}};
  return vcombine_u8(vtbl2_u8(two, vget_low_u8(index)), vtbl2_u8(two, vget_high_u8(index)));
#endif
}

/* (i, i + 4), (i, i + 2), (0 + 1) */
MB_INLINE float add_8_parts(float32x4_t low, float32x4_t high) {
  const float32x4_t four = vaddq_f32(low, high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* The 16 rows of a strip; `rows` of them exist, fewer than 16 in a matrix's last strip. */
MB_INLINE void store_rows(float *y, const float32x4_t values[4], uint32_t rows) {
  float all[MB_STRIP_ROWS];
  float *to = rows >= MB_STRIP_ROWS ? y : all;
  for (int j = 0; j < 4; j++) vst1q_f32(to + 4 * j, values[j]);
  if (rows < MB_STRIP_ROWS) memcpy(y, all, rows * sizeof *y);
}

#endif

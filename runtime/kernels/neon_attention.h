/* Attention over the KV cache, NEON. */
#ifndef MB_KERNELS_NEON_ATTENTION_H
#define MB_KERNELS_NEON_ATTENTION_H

#include "kernels/neon_common.h"

#define MIX_POSITIONS 64 /* values of that many positions stay in L1 while all heads pass over them */
#if defined(__aarch64__)
#define MIX_HEADS 4 /* with 16 columns of each: 16 accumulators */
#else
#define MIX_HEADS 2
#endif

/* Sums of four neighbouring products: the dot product instruction, or what replaces it. */
typedef int32x4_t (*dot_4)(int8x16_t a, int8x16_t b);

MB_INLINE int32x4_t dot_4_by_mull(int8x16_t a, int8x16_t b) {
  return pairwise_add(vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))),
                      vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b))));
}

MB_INLINE void scores_int8_with(dot_4 dot, const int8_t *queries, const float *query_scales, uint32_t heads,
                                const int8_t *keys, const uint16_t *key_scales, uint32_t stride, uint32_t positions,
                                float *scores, size_t scores_stride) {
  const uint32_t blocks = stride / MB_KV_BLOCK;
  for (uint32_t p = 0; p < positions; p++)
    for (uint32_t h = 0; h < heads; h++) {
      const int8_t *k = keys + (size_t)p * stride, *q = queries + (size_t)h * stride;
      float32x4_t low = vdupq_n_f32(0), high = low;
      for (uint32_t b = 0; b < blocks; b++, k += MB_KV_BLOCK, q += MB_KV_BLOCK) {
        const float32x4_t scale =
            vdupq_n_f32(query_scales[h * blocks + b] * load_f16(key_scales + (size_t)p * blocks + b));
        low = vaddq_f32(low, vmulq_f32(vcvtq_f32_s32(dot(vld1q_s8(k), vld1q_s8(q))), scale));
        high = vaddq_f32(high, vmulq_f32(vcvtq_f32_s32(dot(vld1q_s8(k + 16), vld1q_s8(q + 16))), scale));
      }
      scores[h * scores_stride + p] = add_8_parts(low, high);
    }
}

static void scores_f16(const float *queries, uint32_t heads, const uint16_t *keys, uint32_t stride, uint32_t positions,
                       float *scores, size_t scores_stride) {
  for (uint32_t p = 0; p < positions; p++) {
    const uint16_t *k = keys + (size_t)p * stride;
    for (uint32_t h = 0; h < heads; h++) {
      const float *q = queries + (size_t)h * stride;
      float32x4_t low = vdupq_n_f32(0), high = low;
      for (uint32_t d = 0; d < stride; d += 8) {
        low = vaddq_f32(low, vmulq_f32(vld1q_f32(q + d), load_4_f16(k + d)));
        high = vaddq_f32(high, vmulq_f32(vld1q_f32(q + d + 4), load_4_f16(k + d + 4)));
      }
      scores[h * scores_stride + p] = add_8_parts(low, high);
    }
  }
}

/* 16 columns of `heads` heads over `positions` positions, `at` bytes apart. Value scales (int8) are float32 already. */
MB_INLINE void mix_16(const float *weights, size_t weights_stride, uint32_t heads, const uint8_t *values, size_t at,
                      const float *value_scales, uint32_t positions, float *out, uint32_t stride, bool int8) {
  float32x4_t sums[MIX_HEADS][4];
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) sums[h][j] = vld1q_f32(out + (size_t)h * stride + 4 * j);
  for (uint32_t p = 0; p < positions; p++, values += at) {
    float32x4_t v[4];
    if (int8) {
      const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(values));
      const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
      const float32x4_t scale = vdupq_n_f32(value_scales[p]);
      v[0] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), scale);
      v[1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))), scale);
      v[2] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), scale);
      v[3] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))), scale);
    } else {
      for (int j = 0; j < 4; j++) v[j] = load_4_f16(values + 8 * j);
    }
    for (uint32_t h = 0; h < heads; h++) {
      const float32x4_t weight = vdupq_n_f32(weights[h * weights_stride + p]);
      for (int j = 0; j < 4; j++) sums[h][j] = vaddq_f32(sums[h][j], vmulq_f32(weight, v[j]));
    }
  }
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) vst1q_f32(out + (size_t)h * stride + 4 * j, sums[h][j]);
}

/* The number of heads as a constant, so that the accumulators are registers. */
MB_INLINE void mix_16_heads(const float *weights, size_t weights_stride, uint32_t heads, const uint8_t *values,
                            size_t at, const float *value_scales, uint32_t positions, float *out, uint32_t stride,
                            bool int8) {
  if (heads == 1) mix_16(weights, weights_stride, 1, values, at, value_scales, positions, out, stride, int8);
  if (heads == 2) mix_16(weights, weights_stride, 2, values, at, value_scales, positions, out, stride, int8);
#if MIX_HEADS > 2
  if (heads == 3) mix_16(weights, weights_stride, 3, values, at, value_scales, positions, out, stride, int8);
  if (heads == 4) mix_16(weights, weights_stride, 4, values, at, value_scales, positions, out, stride, int8);
#endif
}

#include "kernels/attention_mix.h"

#endif

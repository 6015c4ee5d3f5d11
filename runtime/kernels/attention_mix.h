/* The loops of mixing values, for AVX2 and NEON alike: tiles of positions and of 16 dimensions, so that a tile's scales
 * are converted once and every value once for several heads. The including file defines
 *   MIX_POSITIONS, MIX_HEADS  positions of a tile, and the most heads that mix_16_heads takes
 *   load_f16(p)               an fp16 as float
 *   mix_16_heads(weights, weights_stride, heads, values, value bytes per position, scales, positions, out, out stride,
 *                int8)        16 dimensions of `heads` heads over one tile */
#ifndef MB_KERNELS_ATTENTION_MIX_H
#define MB_KERNELS_ATTENTION_MIX_H

#include "kernels/kernels.h"

static void mix_int8(const float *weights, size_t weights_stride, uint32_t heads, const int8_t *values,
                     const uint16_t *value_scales, uint32_t stride, uint32_t positions, float *out) {
  const uint32_t blocks = stride / MB_KV_BLOCK;
  float scales[MIX_POSITIONS];
  for (uint32_t p = 0; p < positions; p += MIX_POSITIONS) {
    const uint32_t count = positions - p < MIX_POSITIONS ? positions - p : MIX_POSITIONS;
    for (uint32_t d = 0; d < stride; d += 16) {
      if (d % MB_KV_BLOCK == 0)
        for (uint32_t i = 0; i < count; i++)
          scales[i] = load_f16(value_scales + (size_t)(p + i) * blocks + d / MB_KV_BLOCK);
      for (uint32_t h = 0; h < heads; h += MIX_HEADS)
        mix_16_heads(weights + h * weights_stride + p, weights_stride, heads - h < MIX_HEADS ? heads - h : MIX_HEADS,
                     (const uint8_t *)(values + (size_t)p * stride + d), stride, scales, count,
                     out + (size_t)h * stride + d, stride, true);
    }
  }
}

static void mix_f16(const float *weights, size_t weights_stride, uint32_t heads, const uint16_t *values,
                    uint32_t stride, uint32_t positions, float *out) {
  for (uint32_t p = 0; p < positions; p += MIX_POSITIONS) {
    const uint32_t count = positions - p < MIX_POSITIONS ? positions - p : MIX_POSITIONS;
    for (uint32_t d = 0; d < stride; d += 16)
      for (uint32_t h = 0; h < heads; h += MIX_HEADS)
        mix_16_heads(weights + h * weights_stride + p, weights_stride, heads - h < MIX_HEADS ? heads - h : MIX_HEADS,
                     (const uint8_t *)(values + (size_t)p * stride + d), (size_t)stride * 2, NULL, count,
                     out + (size_t)h * stride + d, stride, false);
  }
}

#endif

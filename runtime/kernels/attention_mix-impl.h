/* The loops of mixing values, for AVX2 and NEON alike: tiles of positions and of 16 dimensions, so that a tile's scales
 * are converted once and every value once for several heads.
 *
 * A fragment of avx2_attention-impl.h and neon_attention-impl.h. Define before it is included:
 *   MIX_POSITIONS, MIX_HEADS  positions of a tile, and the most heads that mix_16_heads takes
 *   load_f16(p)               an fp16 as float
 * and behind it
 *   mix_16_heads(block, heads, int8)  adds the block to 16 dimensions of up to MIX_HEADS heads
 * It defines mix_block, mix_int8() and mix_f16(). */
#ifndef MB_KERNELS_ATTENTION_MIX_IMPL_H
#define MB_KERNELS_ATTENTION_MIX_IMPL_H

#include "kernels/kernels.h"

/* 16 dimensions of some positions' values. */
typedef struct {
  const float *weights; /* of the block's first position and head */
  size_t weights_stride;
  const uint8_t *values; /* int8 or fp16, those of one position `value_bytes` behind those of the one before */
  size_t value_bytes;
  const float *scales; /* int8: [positions] */
  uint32_t positions;
  float *out; /* of the first head */
  size_t out_stride;
} mix_block;

MB_INLINE void mix_16_heads(const mix_block *block, uint32_t heads, bool int8);

/* MIX_POSITIONS positions or fewer from `first` on. Always inlined: int8 is a constant. */
MB_INLINE void mix_tile(const float *weights, size_t weights_stride, uint32_t heads, const mb_kv_head *values,
                        uint32_t first_block, uint32_t last_block, float *out, uint32_t first, bool int8) {
  const uint32_t stride = values->stride, blocks = stride / MB_KV_BLOCK, left = values->positions - first;
  const size_t value_bytes = int8 ? 1 : 2;
  float scales[MIX_POSITIONS];
  mix_block block = {.weights_stride = weights_stride,
                     .value_bytes = stride * value_bytes,
                     .scales = scales,
                     .positions = left < MIX_POSITIONS ? left : MIX_POSITIONS,
                     .out_stride = stride};
  for (uint32_t d = first_block * MB_KV_BLOCK; d < last_block * MB_KV_BLOCK; d += 16) {
    if (int8 && d % MB_KV_BLOCK == 0)
      for (uint32_t i = 0; i < block.positions; i++)
        scales[i] = load_f16(values->scales + (size_t)(first + i) * blocks + d / MB_KV_BLOCK);
    block.values = (const uint8_t *)values->values + ((size_t)first * stride + d) * value_bytes;
    for (uint32_t h = 0; h < heads; h += MIX_HEADS) {
      block.weights = weights + h * weights_stride + first;
      block.out = out + (size_t)h * stride + d;
      mix_16_heads(&block, heads - h < MIX_HEADS ? heads - h : MIX_HEADS, int8);
    }
  }
}

static void mix_int8(const float *weights, size_t weights_stride, uint32_t heads, const mb_kv_head *values,
                     uint32_t first_block, uint32_t last_block, float *out) {
  for (uint32_t p = 0; p < values->positions; p += MIX_POSITIONS)
    mix_tile(weights, weights_stride, heads, values, first_block, last_block, out, p, true);
}

static void mix_f16(const float *weights, size_t weights_stride, uint32_t heads, const mb_kv_head *values,
                    uint32_t first_block, uint32_t last_block, float *out) {
  for (uint32_t p = 0; p < values->positions; p += MIX_POSITIONS)
    mix_tile(weights, weights_stride, heads, values, first_block, last_block, out, p, false);
}

#endif

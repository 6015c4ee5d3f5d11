/* The loops of mixing values of fp16, for AVX2 and NEON alike: tiles of positions and of 16 dimensions, so that every
 * value is converted once for several heads.
 *
 * A fragment of avx2_attention-impl.h and neon_attention-impl.h. Define before it is included:
 *   MIX_POSITIONS, MIX_HEADS  positions of a tile, and the most heads that mix_16_heads takes
 * and behind it
 *   mix_16_heads(block, heads)  adds the block to 16 dimensions of up to MIX_HEADS heads
 * It defines mix_block and mix_f16(). */
#ifndef MB_KERNELS_ATTENTION_MIX_IMPL_H
#define MB_KERNELS_ATTENTION_MIX_IMPL_H

#include "kernels/kernels.h"

/* 16 dimensions of some positions' values. */
typedef struct {
  const float *weights; /* of the block's first position and head */
  size_t weights_stride;
  const uint16_t *values; /* those of one position `stride` behind those of the one before */
  uint32_t positions;
  float *out; /* of the first head; of the next `stride` behind */
  size_t stride;
} mix_block;

MB_INLINE void mix_16_heads(const mix_block *block, uint32_t heads);

static void mix_f16(const mb_terms *terms, const mb_kv_head *values, uint32_t first_block, uint32_t last_block,
                    float *out) {
  const uint32_t stride = values->stride;
  for (uint32_t first = 0; first < values->positions; first += MIX_POSITIONS)
    for (uint32_t d = first_block * MB_KV_BLOCK; d < last_block * MB_KV_BLOCK; d += 16)
      for (uint32_t h = 0; h < terms->rows; h += MIX_HEADS) {
        const uint32_t left = values->positions - first;
        const mix_block block = {.weights = terms->terms + h * terms->stride + first,
                                 .weights_stride = terms->stride,
                                 .values = values->values + (size_t)first * stride + d,
                                 .positions = left < MIX_POSITIONS ? left : MIX_POSITIONS,
                                 .out = out + (size_t)h * stride + d,
                                 .stride = stride};
        mix_16_heads(&block, terms->rows - h < MIX_HEADS ? terms->rows - h : MIX_HEADS);
      }
}

#endif

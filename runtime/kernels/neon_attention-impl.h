/* Attention over a KV cache of fp16, NEON.
 *
 * A fragment of neon.c and neon_dotprod.c. It defines scores_f16() and mix_f16(), the table's entries. */
#ifndef MB_KERNELS_NEON_ATTENTION_IMPL_H
#define MB_KERNELS_NEON_ATTENTION_IMPL_H

#include "kernels/neon_common.h"

#define MIX_POSITIONS 64 /* values of that many positions stay in L1 while all heads pass over them */
#if defined(__aarch64__)
#define MIX_HEADS 4 /* with 16 columns of each: 16 accumulators */
#else
#define MIX_HEADS 2
#endif

static void scores_f16(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t heads = queries->rows, stride = keys->stride, positions = keys->positions;
  for (uint32_t p = 0; p < positions; p++) {
    const uint16_t *k = keys->values + (size_t)p * stride;
    for (uint32_t h = 0; h < heads; h++) {
      const float *q = queries->values + (size_t)h * stride;
      float32x4_t low = vdupq_n_f32(0), high = low;
      for (uint32_t d = 0; d < stride; d += 8) {
        low = vaddq_f32(low, vmulq_f32(vld1q_f32(q + d), load_4_f16(k + d)));
        high = vaddq_f32(high, vmulq_f32(vld1q_f32(q + d + 4), load_4_f16(k + d + 4)));
      }
      scores[h * scores_stride + p] = add_8_parts(low, high);
    }
  }
}

#include "kernels/attention_mix-impl.h"

MB_INLINE void mix_16(const mix_block *m, uint32_t heads) {
  const uint16_t *values = m->values;
  float32x4_t sums[MIX_HEADS][4];
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) sums[h][j] = vld1q_f32(m->out + h * m->stride + 4 * j);
  for (uint32_t p = 0; p < m->positions; p++, values += m->stride) {
    float32x4_t v[4];
    for (int j = 0; j < 4; j++) v[j] = load_4_f16(values + 4 * j);
    for (uint32_t h = 0; h < heads; h++) {
      const float32x4_t weight = vdupq_n_f32(m->weights[h * m->weights_stride + p]);
      for (int j = 0; j < 4; j++) sums[h][j] = vaddq_f32(sums[h][j], vmulq_f32(weight, v[j]));
    }
  }
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) vst1q_f32(m->out + h * m->stride + 4 * j, sums[h][j]);
}

/* The number of heads as a constant, so that the accumulators are registers. */
MB_INLINE void mix_16_heads(const mix_block *m, uint32_t heads) {
  if (heads == 1) mix_16(m, 1);
  if (heads == 2) mix_16(m, 2);
#if MIX_HEADS > 2
  if (heads == 3) mix_16(m, 3);
  if (heads == 4) mix_16(m, 4);
#endif
}

#endif

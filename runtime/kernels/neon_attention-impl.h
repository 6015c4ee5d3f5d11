/* Attention over the KV cache, NEON.
 *
 * A fragment of neon.c and neon_dotprod.c. Define before it is included:
 *   dot_4(a, b)  sums of four neighbouring products of int8: the dot product instruction, or what replaces it
 * It defines scores_int8(), scores_f16(), mix_int8() and mix_f16(), the table's entries. */
#ifndef MB_KERNELS_NEON_ATTENTION_IMPL_H
#define MB_KERNELS_NEON_ATTENTION_IMPL_H

#include "kernels/neon_common.h"

#define MIX_POSITIONS 64 /* values of that many positions stay in L1 while all heads pass over them */
#if defined(__aarch64__)
#define MIX_HEADS 4 /* with 16 columns of each: 16 accumulators */
#else
#define MIX_HEADS 2
#endif

static void scores_int8(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t heads = queries->rows, stride = keys->stride, positions = keys->positions,
                 blocks = stride / MB_KV_BLOCK;
  for (uint32_t p = 0; p < positions; p++)
    for (uint32_t h = 0; h < heads; h++) {
      const int8_t *k = (const int8_t *)keys->values + (size_t)p * stride, *q = queries->codes + (size_t)h * stride;
      float32x4_t low = vdupq_n_f32(0), high = low;
      for (uint32_t b = 0; b < blocks; b++, k += MB_KV_BLOCK, q += MB_KV_BLOCK) {
        const float32x4_t scale =
            vdupq_n_f32(queries->scales[h * blocks + b] * load_f16(keys->scales + (size_t)p * blocks + b));
        low = vaddq_f32(low, vmulq_f32(vcvtq_f32_s32(dot_4(vld1q_s8(k), vld1q_s8(q))), scale));
        high = vaddq_f32(high, vmulq_f32(vcvtq_f32_s32(dot_4(vld1q_s8(k + 16), vld1q_s8(q + 16))), scale));
      }
      scores[h * scores_stride + p] = add_8_parts(low, high);
    }
}

static void scores_f16(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t heads = queries->rows, stride = keys->stride, positions = keys->positions;
  for (uint32_t p = 0; p < positions; p++) {
    const uint16_t *k = (const uint16_t *)keys->values + (size_t)p * stride;
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

MB_INLINE void mix_16(const mix_block *m, uint32_t heads, bool int8) {
  const uint8_t *values = m->values;
  float32x4_t sums[MIX_HEADS][4];
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) sums[h][j] = vld1q_f32(m->out + h * m->out_stride + 4 * j);
  for (uint32_t p = 0; p < m->positions; p++, values += m->value_bytes) {
    float32x4_t v[4];
    if (int8) {
      const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(values));
      const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
      const float32x4_t scale = vdupq_n_f32(m->scales[p]);
      v[0] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), scale);
      v[1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))), scale);
      v[2] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), scale);
      v[3] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))), scale);
    } else {
      for (int j = 0; j < 4; j++) v[j] = load_4_f16(values + 8 * j);
    }
    for (uint32_t h = 0; h < heads; h++) {
      const float32x4_t weight = vdupq_n_f32(m->weights[h * m->weights_stride + p]);
      for (int j = 0; j < 4; j++) sums[h][j] = vaddq_f32(sums[h][j], vmulq_f32(weight, v[j]));
    }
  }
  for (uint32_t h = 0; h < heads; h++)
    for (int j = 0; j < 4; j++) vst1q_f32(m->out + h * m->out_stride + 4 * j, sums[h][j]);
}

/* The number of heads as a constant, so that the accumulators are registers. */
MB_INLINE void mix_16_heads(const mix_block *m, uint32_t heads, bool int8) {
  if (heads == 1) mix_16(m, 1, int8);
  if (heads == 2) mix_16(m, 2, int8);
#if MIX_HEADS > 2
  if (heads == 3) mix_16(m, 3, int8);
  if (heads == 4) mix_16(m, 4, int8);
#endif
}

#endif

/* bfloat16 and float32 matrices, row-major, NEON: 16 partial sums per row and vector, multiply then add.
 *
 * A fragment of neon_multiply-impl.h. It defines multiply_dense(). */
#ifndef MB_KERNELS_NEON_DENSE_IMPL_H
#define MB_KERNELS_NEON_DENSE_IMPL_H

#include "kernels/neon_common.h"

/* Vectors that share one conversion of the weights: as many accumulators as the registers hold. */
#if defined(__aarch64__)
#define DENSE_VECTORS 4
#else
#define DENSE_VECTORS 2
#endif

#define DENSE_BLOCK_BYTES ((size_t)32 << 10)

typedef struct {
  float32x4_t part[4];
} sixteen;

MB_INLINE sixteen load_16_weights(const uint8_t *p, bool bf16) {
  sixteen w;
  for (int j = 0; j < 4; j++)
    w.part[j] = bf16 ? vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * j)), 16))
                     : vreinterpretq_f32_u8(vld1q_u8(p + 16 * j));
  return w;
}

MB_INLINE void dense_step(sixteen *sums, const uint8_t *p, const float *x, size_t x_stride, int vectors, bool bf16) {
  const sixteen w = load_16_weights(p, bf16);
  for (int n = 0; n < vectors; n++, x += x_stride)
    for (int j = 0; j < 4; j++)
      sums[n].part[j] = vaddq_f32(sums[n].part[j], vmulq_f32(w.part[j], vld1q_f32(x + 4 * j)));
}

/* One row times `vectors` neighbouring vectors. */
MB_INLINE void dense_row(const uint8_t *p, uint32_t columns, const float *x, size_t x_stride, float *y, size_t y_stride,
                         int vectors, bool bf16) {
  const size_t width = bf16 ? 2 : 4;
  sixteen s[DENSE_VECTORS];
  for (int n = 0; n < vectors; n++)
    for (int j = 0; j < 4; j++) s[n].part[j] = vdupq_n_f32(0);
  uint32_t c = 0;
  for (; c + 16 <= columns; c += 16) dense_step(s, p + c * width, x + c, x_stride, vectors, bf16);
  if (c < columns) { /* never read beyond the row; the products of the zeros change no sum: none is -0 */
    uint8_t last[64] = {0};
    memcpy(last, p + c * width, (columns - c) * width);
    dense_step(s, last, x + c, x_stride, vectors, bf16);
  }
  for (int n = 0; n < vectors; n++)
    y[(size_t)n * y_stride] = add_8_parts(vaddq_f32(s[n].part[0], s[n].part[2]), vaddq_f32(s[n].part[1], s[n].part[3]));
}

/* All vectors times one block of rows that stays in the cache, then the next block: memory is read once. */
MB_INLINE void dense(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                     uint32_t row_end, bool bf16) {
  const size_t row_bytes = (size_t)w->columns * (bf16 ? 2 : 4);
  const uint32_t most = row_bytes < DENSE_BLOCK_BYTES ? (uint32_t)(DENSE_BLOCK_BYTES / row_bytes) : 1;
  for (uint32_t first = row_begin; first < row_end; first += most) {
    const uint32_t last = row_end - first < most ? row_end : first + most;
    uint32_t n = 0;
    for (; n + DENSE_VECTORS <= x->count; n += DENSE_VECTORS)
      for (uint32_t r = first; r < last; r++)
        dense_row(w->data + r * row_bytes, w->columns, x->values + (size_t)n * x->padded, x->padded,
                  y + n * y_stride + r, y_stride, DENSE_VECTORS, bf16);
    for (; n < x->count; n++)
      for (uint32_t r = first; r < last; r++)
        dense_row(w->data + r * row_bytes, w->columns, x->values + (size_t)n * x->padded, 0, y + n * y_stride + r, 0, 1,
                  bf16);
  }
}

static void multiply_dense(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                           uint32_t row_end) {
  const uint32_t last = mb_last_row(w, row_end);
  if (w->format == MB_FORMAT_BF16)
    dense(w, x, y, y_stride, row_begin, last, true);
  else
    dense(w, x, y, y_stride, row_begin, last, false);
}

#endif

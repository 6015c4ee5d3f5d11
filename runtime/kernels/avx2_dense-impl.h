/* bfloat16 and float32 matrices, row-major, AVX2: 16 partial sums per row and vector, multiply then add.
 *
 * A fragment of avx2.c. It defines multiply_dense(). */
#ifndef MB_KERNELS_AVX2_DENSE_IMPL_H
#define MB_KERNELS_AVX2_DENSE_IMPL_H

#include "kernels/avx2_common.h"

#define DENSE_SUMS 4    /* pairs of accumulators that leave registers for the rest */
#define DENSE_VECTORS 4 /* vectors that share one conversion of the weights */
#define DENSE_BLOCK_BYTES ((size_t)64 << 10)

typedef struct {
  __m256 low, high;
} sixteen;

MB_INLINE sixteen load_16_weights(const uint8_t *p, bool bf16) {
  if (!bf16)
    return (sixteen){_mm256_loadu_ps((const float *)(const void *)p),
                     _mm256_loadu_ps((const float *)(const void *)(p + 32))};
  __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 16)));
  return (sixteen){_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}

/* sums += 16 columns of one row, at `p`, times the same columns of `vectors` vectors. */
MB_INLINE void dense_step(sixteen *sums, const uint8_t *p, const float *x, size_t x_stride, int vectors, bool bf16) {
  sixteen weights = load_16_weights(p, bf16);
  for (int n = 0; n < vectors; n++, x += x_stride) {
    sums[n].low = _mm256_add_ps(sums[n].low, _mm256_mul_ps(weights.low, _mm256_loadu_ps(x)));
    sums[n].high = _mm256_add_ps(sums[n].high, _mm256_mul_ps(weights.high, _mm256_loadu_ps(x + 8)));
  }
}

/* `rows` neighbouring rows, `row_bytes` apart, times `vectors` neighbouring vectors; rows * vectors <= 4. */
MB_INLINE void dense_block(const uint8_t *p, size_t row_bytes, uint32_t columns, const float *x, size_t x_stride,
                           float *y, size_t y_stride, int rows, int vectors, bool bf16) {
  const size_t width = bf16 ? 2 : 4;
  sixteen s[DENSE_SUMS];
  for (int i = 0; i < rows * vectors; i++) s[i] = (sixteen){_mm256_setzero_ps(), _mm256_setzero_ps()};
  uint32_t c = 0;
  for (; c + 16 <= columns; c += 16)
    for (int r = 0; r < rows; r++)
      dense_step(s + r * vectors, p + (size_t)r * row_bytes + c * width, x + c, x_stride, vectors, bf16);
  if (c < columns)
    for (int r = 0; r < rows; r++) {
      /* Never read beyond the row, it may be the payload's last. Adding the products of the zeros that fill the block
       * changes nothing: no sum is ever -0. */
      uint8_t last[64] = {0};
      memcpy(last, p + (size_t)r * row_bytes + c * width, (columns - c) * width);
      dense_step(s + r * vectors, last, x + c, x_stride, vectors, bf16);
    }
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < vectors; n++) {
      sixteen sum = s[r * vectors + n];
      y[(size_t)n * y_stride + r] = add_8_parts(_mm256_add_ps(sum.low, sum.high));
    }
}

/* All vectors times one block of rows that stays in the cache, then the next block: memory is read once. */
MB_INLINE void dense(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                     uint32_t row_end, bool bf16) {
  const size_t row_bytes = (size_t)w->columns * (bf16 ? 2 : 4);
  const uint32_t most = row_bytes < DENSE_BLOCK_BYTES / 2 ? (uint32_t)(DENSE_BLOCK_BYTES / row_bytes) : 2;
  for (uint32_t first = row_begin; first < row_end; first += most) {
    const uint32_t last = row_end - first < most ? row_end : first + most;
    uint32_t n = 0;
    for (; n + DENSE_VECTORS <= x->count; n += DENSE_VECTORS)
      for (uint32_t r = first; r < last; r++)
        dense_block(w->data + r * row_bytes, row_bytes, w->columns, x->values + (size_t)n * x->padded, x->padded,
                    y + n * y_stride + r, y_stride, 1, DENSE_VECTORS, bf16);
    for (; n < x->count; n++) {
      const float *v = x->values + (size_t)n * x->padded;
      uint32_t r = first;
      /* Two rows at a time hide the latency of the adds; more streams would slow the memory down. */
      for (; r + 2 <= last; r += 2)
        dense_block(w->data + r * row_bytes, row_bytes, w->columns, v, 0, y + n * y_stride + r, 0, 2, 1, bf16);
      if (r < last)
        dense_block(w->data + r * row_bytes, row_bytes, w->columns, v, 0, y + n * y_stride + r, 0, 1, 1, bf16);
    }
  }
}

static void multiply_dense(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                           uint32_t row_end) {
  uint32_t last = mb_last_row(w, row_end);
  if (w->format == MB_FORMAT_BF16)
    dense(w, x, y, y_stride, row_begin, last, true);
  else
    dense(w, x, y, y_stride, row_begin, last, false);
}

#endif

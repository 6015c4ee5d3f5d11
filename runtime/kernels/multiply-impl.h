/* The table's `multiply`: each format to its own product.
 *
 * A fragment of avx2.c and neon_multiply-impl.h. Define before it is included, with the parameters of multiply():
 *   multiply_strips(), multiply_sparse(), multiply_vector_codes(), multiply_dense()
 * It defines multiply(). */
#ifndef MB_KERNELS_MULTIPLY_IMPL_H
#define MB_KERNELS_MULTIPLY_IMPL_H

#include "kernels/kernels.h"
#include "packed/layout.h"

static void multiply(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                     uint32_t row_end) {
  if (w->format == MB_FORMAT_SPARSE_TERNARY)
    multiply_sparse(w, x, y, y_stride, row_begin, row_end);
  else if (w->format == MB_FORMAT_VECTOR)
    multiply_vector_codes(w, x, y, y_stride, row_begin, row_end);
  else if (mb_format_bits(w->format) == 0)
    multiply_dense(w, x, y, y_stride, row_begin, row_end);
  else
    multiply_strips(w, x, y, y_stride, row_begin, row_end);
}

#endif

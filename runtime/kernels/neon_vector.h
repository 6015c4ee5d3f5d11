/* Placeholder of the interface: forwards to the definition. */
#ifndef MB_KERNELS_NEON_VECTOR_H
#define MB_KERNELS_NEON_VECTOR_H

#include "tables.h"

static void multiply_vector_codes(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride,
                                  uint32_t row_begin, uint32_t row_end) {
  mb_scalar_kernels.multiply(w, x, y, y_stride, row_begin, row_end);
}

#endif

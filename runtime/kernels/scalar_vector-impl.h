/* MB_FORMAT_VECTOR, the definition.
 *
 * A fragment of scalar.c. It defines vector_row(): one row times one vector. */
#ifndef MB_KERNELS_SCALAR_VECTOR_IMPL_H
#define MB_KERNELS_SCALAR_VECTOR_IMPL_H

#include <string.h>

#include "base/half.h"
#include "packed/vector_layout.h"

static inline float vector_row(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row) {
  const mb_vector_parts *v = &w->vector;
  const int8_t *q = x->codes + (size_t)n * x->padded;
  const uint32_t group = x->group != 0 ? x->group : x->padded;
  uint16_t half;
  memcpy(&half, v->row_scales + 2 * (size_t)row, 2);
  float sum = 0;
  uint32_t outlier = 0;
  for (uint32_t g = 0, first = 0; first < w->columns; g++, first += group) {
    int32_t s = 0;
    for (uint32_t c = first; c < first + group && c < w->columns; c++) {
      uint8_t code = mb_vector_code(v, row, c);
      if (outlier < v->outliers && v->outlier_columns[outlier] == c)
        code = (uint8_t)(code + (uint8_t)v->outlier_values[(size_t)row * v->outliers + outlier++]);
      s += (int8_t)code * q[c];
    }
    sum = sum + (float)s * x->scales[(size_t)n * x->groups + g];
  }
  return sum * (mb_f16_to_f32(half) * w->scale);
}

#endif

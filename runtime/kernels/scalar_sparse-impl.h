/* MB_FORMAT_SPARSE_TERNARY, the definition.
 *
 * A fragment of scalar.c. It defines sparse_row(): one row times one vector. */
#ifndef MB_KERNELS_SCALAR_SPARSE_IMPL_H
#define MB_KERNELS_SCALAR_SPARSE_IMPL_H

#include "packed/sparse_layout.h"

static inline float sparse_row(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row) {
  const int8_t *q = x->codes + (size_t)n * x->padded;
  int32_t sum = 0;
  for (uint32_t tile = 0; tile < mb_sparse_tiles(w->columns); tile++) {
    const uint8_t *block = mb_sparse_strip(w, tile, row) + MB_SPARSE_HEAD;
    for (uint32_t c = 0; c < mb_sparse_tile_columns(w->columns, tile); c += 32, block += MB_SPARSE_BLOCK, q += 32) {
      int8_t codes[32];
      mb_sparse_block_codes(block, row % MB_SPARSE_STRIP_ROWS, codes);
      for (int i = 0; i < 32; i++) sum += codes[i] * q[i];
    }
  }
  float scale = w->row_scales != NULL ? w->row_scales[row] : w->scale;
  return (float)sum * scale * x->scales[n];
}

#endif

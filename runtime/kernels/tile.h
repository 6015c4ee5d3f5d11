/* A tile of a product with many vectors: some strips of rows times some of the vectors. */
#ifndef MB_KERNELS_TILE_H
#define MB_KERNELS_TILE_H

#include "kernels/kernels.h"

/* Row r of vector n goes to y[n * y_stride + r]; rows from w->rows on are not written. */
typedef struct {
  const mb_matrix *w;
  const mb_activations *x;
  float *y;
  size_t y_stride;
  uint32_t row, strips;    /* rows row..row + 16 * strips - 1 of w */
  uint32_t first, vectors; /* vectors first..first + vectors - 1 of x */
} mb_tile;

typedef void (*mb_tile_kernel)(const mb_tile *tile);

/* Runs `kernel` on every tile of all x->count vectors and the rows whole->row..end - 1, of which the last strip may be
 * cut off: up to `most_strips` strips and `most_vectors` vectors at a time. Of `whole`, strips and vectors are not
 * read. */
static inline void mb_each_tile(const mb_tile *whole, uint32_t end, uint32_t most_strips, uint32_t most_vectors,
                                mb_tile_kernel kernel) {
  mb_tile tile = *whole;
  for (tile.first = 0; tile.first < tile.x->count; tile.first += most_vectors) {
    const uint32_t vectors = tile.x->count - tile.first;
    tile.vectors = vectors < most_vectors ? vectors : most_vectors;
    for (tile.row = whole->row; tile.row < end; tile.row += most_strips * MB_STRIP_ROWS) {
      const uint32_t strips = (end - tile.row + MB_STRIP_ROWS - 1) / MB_STRIP_ROWS;
      tile.strips = strips < most_strips ? strips : most_strips;
      kernel(&tile);
    }
  }
}

#endif

/* Where things lie in an MB_FORMAT_SPARSE_TERNARY payload (mobile_bundle/packed_formats.h), and one row's codes. */
#ifndef MB_PACKED_SPARSE_LAYOUT_H
#define MB_PACKED_SPARSE_LAYOUT_H

#include <stddef.h>

#include "packed/formats.h"

#define MB_SPARSE_BLOCK 160                       /* bytes of 32 rows x 32 columns */
#define MB_SPARSE_HEAD (4 * MB_SPARSE_STRIP_ROWS) /* negation counts of a strip in a tile */

/* Columns of tile `tile`, a multiple of 32. */
static inline uint32_t mb_sparse_tile_columns(uint32_t columns, uint32_t tile) {
  const uint32_t left = mb_round_up(columns, 32) - tile * MB_SPARSE_TILE;
  return left < MB_SPARSE_TILE ? left : MB_SPARSE_TILE;
}
static inline uint32_t mb_sparse_tiles(uint32_t columns) {
  return (mb_round_up(columns, 32) + MB_SPARSE_TILE - 1) / MB_SPARSE_TILE;
}
static inline size_t mb_sparse_strip_bytes(uint32_t tile_columns) {
  return MB_SPARSE_HEAD + (size_t)tile_columns / 32 * MB_SPARSE_BLOCK;
}
static inline uint64_t mb_sparse_codes_bytes(uint32_t rows, uint32_t columns) {
  const uint64_t strips = mb_round_up(rows, MB_SPARSE_STRIP_ROWS) / MB_SPARSE_STRIP_ROWS;
  return strips * ((uint64_t)mb_sparse_tiles(columns) * MB_SPARSE_HEAD +
                   (uint64_t)mb_round_up(columns, 32) / 32 * MB_SPARSE_BLOCK);
}
/* The strip that holds `row`, in tile `tile`. */
static inline const uint8_t *mb_sparse_strip(const mb_matrix *w, uint32_t tile, uint32_t row) {
  const size_t strips = mb_round_up(w->rows, MB_SPARSE_STRIP_ROWS) / MB_SPARSE_STRIP_ROWS;
  const size_t before = strips * mb_sparse_strip_bytes(MB_SPARSE_TILE) * tile;
  return w->data + before +
         row / MB_SPARSE_STRIP_ROWS * mb_sparse_strip_bytes(mb_sparse_tile_columns(w->columns, tile));
}

/* The eight groups of 4 columns of one row (0..31 of the strip) in a block: 32 values in {-1, 0, 1}. */
static inline void mb_sparse_block_codes(const uint8_t *block, uint32_t row, int8_t out[32]) {
  for (uint32_t g = 0; g < 8; g++) {
    const uint32_t nibble = block[32 * (g / 2) + row] >> g % 2 * 4 & 15u;
    const int first = block[128 + row] >> (7 - g) & 1 ? -1 : 1;
    const int signs[3] = {first, nibble & 4 ? -first : first, nibble & 8 ? -first : first};
    for (uint32_t c = 0, next = 0; c < 4; c++) out[4 * g + c] = (int8_t)(c == (nibble & 3) ? 0 : signs[next++]);
  }
}

#endif

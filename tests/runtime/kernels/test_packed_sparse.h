/* Part of test_kernels.c: MB_FORMAT_SPARSE_TERNARY. The packer is written from the text of packed_formats.h. */
#ifndef MB_TEST_PACKED_SPARSE_H
#define MB_TEST_PACKED_SPARSE_H

#include "pack.h"

/* Bytes before strip `row / 32` of the tile that begins at column `first`: narrower tiles come last. */
static size_t sparse_offset(uint32_t rows, uint32_t columns, uint32_t row, uint32_t first) {
  const size_t strips = (rows + 31) / 32, padded = (columns + 31) / 32 * 32;
  const size_t tile = padded - first < 1600 ? padded - first : 1600;
  return strips * (first / 1600 * 128 + (size_t)first / 32 * 160) + row / 32 * (128 + tile / 32 * 160);
}

/* One group of 4 columns: a random zero, and the signs of the three others all `sign`, or random where it is 0. */
static void pack_group(uint8_t *strip, uint32_t row, uint32_t group, int sign, int t[4]) {
  const uint32_t zero = random_below(4);
  int others[3];
  for (int i = 0; i < 3; i++) others[i] = sign != 0 ? sign : random_below(2) != 0 ? 1 : -1;
  for (uint32_t c = 0, next = 0; c < 4; c++) t[c] = c == zero ? 0 : others[next++];

  const uint32_t nibble = zero | (others[1] != others[0] ? 4u : 0) | (others[2] != others[0] ? 8u : 0);
  uint8_t *block = strip + 128 + (size_t)(group / 8) * 160;
  put_bits(block + group % 8 / 2 * 32 + row % 32, group % 2 * 4, nibble);
  if (others[0] > 0) return;
  put_bits(block + 128 + row % 32, 7 - group % 8, 1);
  int32_t negated;
  memcpy(&negated, strip + row % 32 * 4, 4);
  negated++;
  memcpy(strip + row % 32 * 4, &negated, 4);
}

/* extreme: rows of only positive or only negative weights. */
static packed pack_sparse(uint32_t rows, uint32_t columns, uint32_t flags, bool extreme) {
  packed t = {.format = MB_FORMAT_SPARSE_TERNARY, .rows = rows, .columns = columns, .flags = flags};
  const size_t bytes = (size_t)mb_payload_bytes(t.format, rows, columns, 0, flags);
  t.blob = guarded_new(sizeof(mb_blob_header) + bytes);
  t.codes = malloc((size_t)rows * columns * sizeof *t.codes);
  t.weights = malloc((size_t)rows * columns * sizeof *t.weights);
  const mb_blob_header h = {.magic = {'M', 'B', 'W', 'B'},
                            .version = MB_BLOB_VERSION,
                            .format = MB_FORMAT_SPARSE_TERNARY,
                            .rows = rows,
                            .columns = columns,
                            .flags = flags,
                            .scale = 0.037f,
                            .payload_bytes = bytes};
  memcpy(t.blob.at, &h, sizeof h);
  uint8_t *payload = (uint8_t *)t.blob.at + sizeof h;
  const size_t padded_rows = (rows + 31) / 32 * 32;
  for (uint32_t r = 0; r < rows; r++) {
    float scale = h.scale;
    if (flags & MB_FLAG_ROW_SCALES) {
      scale = 0.01f * (1.0f + random_unit() * 0.5f);
      memcpy(payload + bytes - 4 * padded_rows + 4 * r, &scale, 4);
    }
    for (uint32_t c = 0; c < columns; c += 4) {
      const uint32_t first = c / 1600 * 1600;
      int four[4];
      pack_group(payload + sparse_offset(rows, columns, r, first), r, (c - first) / 4,
                 !extreme || r % 3 == 2 ? 0
                 : r % 3 == 0           ? 1
                                        : -1,
                 four);
      for (uint32_t i = 0; i < 4 && c + i < columns; i++) {
        const size_t at = (size_t)r * columns + c + i;
        t.codes[at] = (int16_t)(four[i] + 1);
        t.weights[at] = scale * (float)four[i];
      }
    }
  }
  return t;
}

static void test_sparse(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t shapes[][2] = {{1, 1},     {1, 4},     {37, 3},    {16, 31},   {17, 32},   {33, 33},
                                       {48, 172},  {83, 131},  {64, 320},  {40, 352},  {5, 1599},  {19, 1600},
                                       {33, 1601}, {17, 1631}, {32, 1632}, {35, 1633}, {18, 3233}, {1100, 5}};
  for (size_t s = 0; s < LENGTH(shapes); s++)
    for (uint32_t flags = 0; flags <= MB_FLAG_ROW_SCALES; flags += MB_FLAG_ROW_SCALES)
      for (int extreme = 0; extreme < 2; extreme++) {
        if (shapes[s][0] > 1000 && extreme) continue;
        packed t = pack_sparse(shapes[s][0], shapes[s][1], flags, extreme);
        test_matrix(scalar, tables, &t);
        packed_free(&t);
      }
}

#endif

/* MB_FORMAT_VECTOR: what the AVX2 and NEON kernels share, which is everything but the products.
 *
 * One vector of activations: codebook entries go straight into registers, four rows at a time, against activations
 * spread out as the entries are (those of v = 4 and 8 lie so already). Many vectors: a tile of rows is written out and
 * goes the way of 8-bit codes. A code of -128, which no blob may hold, may give wrong results.
 *
 * A fragment of avx2_vector-impl.h and neon_vector-impl.h. Define before it is included:
 *   MB_INLINE
 * and behind it
 *   dot_quad(sums, four, parts, x, blocks, stride, residual, bits)
 *     adds to each of four sums the products of its row of `four` over `blocks` blocks of eight vectors,
 *     x [vector][stride], and moves `four` behind them. All from `stride` on are constants, but for `bits` where there
 *     is a residual codebook.
 * It defines multiply_codes_by_vector() for one vector, and for many write_rows(), which writes a tile's codes out. */
#ifndef MB_KERNELS_VECTOR_ROWS_IMPL_H
#define MB_KERNELS_VECTOR_ROWS_IMPL_H

#include <string.h>

#include "base/half.h"
#include "packed/layout.h"
#include "packed/vector_layout.h"

/* Calls `function` with the number of bits, 8 to 16, as a constant. */
#define WITH_CONSTANT_BITS(bits, function, ...) \
  switch (bits) {                               \
    case 8:                                     \
      function(__VA_ARGS__, 8);                 \
      break;                                    \
    case 9:                                     \
      function(__VA_ARGS__, 9);                 \
      break;                                    \
    case 10:                                    \
      function(__VA_ARGS__, 10);                \
      break;                                    \
    case 11:                                    \
      function(__VA_ARGS__, 11);                \
      break;                                    \
    case 12:                                    \
      function(__VA_ARGS__, 12);                \
      break;                                    \
    case 13:                                    \
      function(__VA_ARGS__, 13);                \
      break;                                    \
    case 14:                                    \
      function(__VA_ARGS__, 14);                \
      break;                                    \
    case 15:                                    \
      function(__VA_ARGS__, 15);                \
      break;                                    \
    default:                                    \
      function(__VA_ARGS__, 16);                \
      break;                                    \
  }

/* Eight indices, of which the first begins with a byte. Reads at most 18 bytes: two of an index, 16 behind the last. */
MB_INLINE void read_8_indices(uint32_t out[8], const uint8_t *p, uint32_t bits) {
  const uint32_t mask = (1u << bits) - 1;
#if UINTPTR_MAX > 0xffffffff
  /* Four fill at most 64 bits, and the other four begin in the byte that those end in. */
  uint64_t low, high;
  memcpy(&low, p, 8);
  memcpy(&high, p + bits / 2, 8);
  high >>= 4 * bits % 8;
  for (uint32_t i = 0; i < 4; i++) {
    out[i] = (uint32_t)(low >> i * bits) & mask;
    out[4 + i] = (uint32_t)(high >> i * bits) & mask;
  }
#else
  for (uint32_t i = 0; i < 8; i++) {
    uint32_t word;
    memcpy(&word, p + i * bits / 8, 4);
    out[i] = word >> i * bits % 8 & mask;
  }
#endif
}

/* ---- one vector: four rows at a time ---- */

#define QUAD 4

/* Four rows; those that only fill up the last four are the last one again. */
typedef struct {
  const uint8_t *p[QUAD], *residual[QUAD];
  uint32_t rows[QUAD];
} row_quad;

MB_INLINE row_quad quad_at(const mb_vector_parts *parts, uint32_t row, uint32_t row_end, uint32_t vector) {
  row_quad four;
  for (uint32_t i = 0; i < QUAD; i++) {
    const size_t own = row + i < row_end ? row + i : row_end - 1;
    four.rows[i] = (uint32_t)own;
    four.p[i] = parts->indices + own * parts->index_bytes + (size_t)(vector / 8) * parts->index_bits;
    four.residual[i] =
        parts->residual_indices + own * parts->residual_bytes + (size_t)(vector / 8) * parts->residual_bits;
  }
  return four;
}

MB_INLINE void dot_quad(int32_t sums[QUAD], row_quad *four, const mb_vector_parts *parts, const int8_t *x,
                        uint32_t blocks, uint32_t stride, bool residual, uint32_t bits);

/* Adds what the outliers before column `end`, from number *outlier on, change in the sums of these four rows. */
static void add_outliers(int32_t sums[QUAD], const row_quad *four, const mb_vector_parts *parts, const int8_t *x,
                         uint32_t *outlier, uint32_t end) {
  for (; *outlier < parts->outliers && parts->outlier_columns[*outlier] < end; ++*outlier) {
    const uint32_t column = parts->outlier_columns[*outlier];
    for (int i = 0; i < QUAD; i++) {
      const uint8_t code = mb_vector_code(parts, four->rows[i], column);
      const uint8_t value = (uint8_t)parts->outlier_values[(size_t)four->rows[i] * parts->outliers + *outlier];
      sums[i] += ((int8_t)(uint8_t)(code + value) - (int8_t)code) * x[column];
    }
  }
}

static void store_quad(float *y, const mb_matrix *w, const float sums[QUAD], uint32_t row, uint32_t row_end) {
  for (uint32_t i = 0; i < QUAD && row + i < row_end; i++) {
    uint16_t half;
    memcpy(&half, w->vector.row_scales + 2 * (size_t)(row + i), 2);
    y[row + i] = sums[i] * (mb_f16_to_f32(half) * w->scale);
  }
}

/* v = 4 or 8: activations as they are, in groups of 128 columns. */
MB_INLINE void grouped_rows(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end,
                            uint32_t stride, bool residual, uint32_t bits) {
  const mb_vector_parts *parts = &w->vector;
  const uint32_t blocks = (parts->vectors + 7) / 8, most = 16 / stride; /* of eight vectors; `most` in a group */
  for (uint32_t row = row_begin; row < row_end; row += QUAD) {
    row_quad four = quad_at(parts, row, row_end, 0);
    float sums[QUAD] = {0};
    uint32_t outlier = 0;
    for (uint32_t g = 0; g * most < blocks; g++) {
      const uint32_t left = blocks - g * most;
      int32_t s[QUAD] = {0};
      dot_quad(s, &four, parts, x->codes + (size_t)g * 128, left < most ? left : most, stride, residual, bits);
      if (outlier < parts->outliers) add_outliers(s, &four, parts, x->codes, &outlier, (g + 1) * 128);
      for (int i = 0; i < QUAD; i++) sums[i] = sums[i] + (float)s[i] * x->scales[g];
    }
    store_quad(y, w, sums, row, row_end);
  }
}

static void vector_4_rows(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  if (w->vector.residual_bits > 0)
    grouped_rows(w, x, y, row_begin, row_end, 4, true, w->vector.index_bits);
  else
    WITH_CONSTANT_BITS(w->vector.index_bits, grouped_rows, w, x, y, row_begin, row_end, 4, false)
}

static void vector_8_rows(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  if (w->vector.residual_bits > 0)
    grouped_rows(w, x, y, row_begin, row_end, 8, true, w->vector.index_bits);
  else
    WITH_CONSTANT_BITS(w->vector.index_bits, grouped_rows, w, x, y, row_begin, row_end, 8, false)
}

#define SPREAD_VECTORS 512
#define SPREAD_ROWS 64 /* that share what was spread */

/* Activations of the vectors first.. to [vector][stride], zero behind each vector and up to a multiple of 8 vectors. */
static void spread(int8_t *to, const mb_activations *x, uint32_t first, uint32_t vectors, uint32_t length,
                   uint32_t stride) {
  memset(to, 0, (size_t)mb_round_up(vectors, 8) * stride);
  for (uint32_t k = 0; k < vectors; k++, to += stride) {
    const uint32_t column = (first + k) * length, left = x->padded - column;
    const int8_t *from = x->codes + column;
    for (uint32_t j = 0; j < length && j < left; j++) to[j] = from[j];
  }
}

static void add_spread_dots(int32_t sums[QUAD], row_quad *four, const mb_vector_parts *parts, const int8_t *x,
                            uint32_t blocks) {
  if (parts->residual_bits > 0 && parts->stride == 8)
    dot_quad(sums, four, parts, x, blocks, 8, true, parts->index_bits);
  else if (parts->residual_bits > 0)
    dot_quad(sums, four, parts, x, blocks, 16, true, parts->index_bits);
  else if (parts->stride == 8)
    WITH_CONSTANT_BITS(parts->index_bits, dot_quad, sums, four, parts, x, blocks, 8, false)
  else
    WITH_CONSTANT_BITS(parts->index_bits, dot_quad, sums, four, parts, x, blocks, 16, false)
}

/* The other lengths: one scale, activations spread out to the entries' bytes. */
static void spread_rows(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  _Alignas(32) int8_t codes[SPREAD_VECTORS * 16];
  const mb_vector_parts *parts = &w->vector;
  for (uint32_t begin = row_begin; begin < row_end; begin += SPREAD_ROWS) {
    const uint32_t end = row_end - begin < SPREAD_ROWS ? row_end : begin + SPREAD_ROWS;
    int32_t sums[SPREAD_ROWS / QUAD][QUAD] = {{0}};
    for (uint32_t first = 0; first < parts->vectors; first += SPREAD_VECTORS) {
      const uint32_t vectors = parts->vectors - first < SPREAD_VECTORS ? parts->vectors - first : SPREAD_VECTORS;
      spread(codes, x, first, vectors, parts->length, parts->stride);
      for (uint32_t row = begin; row < end; row += QUAD) {
        row_quad four = quad_at(parts, row, end, first);
        add_spread_dots(sums[(row - begin) / QUAD], &four, parts, codes, (vectors + 7) / 8);
      }
    }
    for (uint32_t row = begin; row < end; row += QUAD) {
      const row_quad four = quad_at(parts, row, end, 0);
      int32_t *s = sums[(row - begin) / QUAD];
      uint32_t outlier = 0;
      float scaled[QUAD] = {0};
      add_outliers(s, &four, parts, x->codes, &outlier, w->columns);
      for (int i = 0; i < QUAD; i++) scaled[i] = scaled[i] + (float)s[i] * x->scales[0];
      store_quad(y, w, scaled, row, end);
    }
  }
}

/* One vector times the rows row_begin..row_end-1, all of which exist. */
static void multiply_codes_by_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                                     uint32_t row_end) {
  if (w->vector.length == 4)
    vector_4_rows(w, x, y, row_begin, row_end);
  else if (w->vector.length == 8)
    vector_8_rows(w, x, y, row_begin, row_end);
  else
    spread_rows(w, x, y, row_begin, row_end);
}

/* ---- many vectors: codes written out, as they lie in a row ---- */

#define CODE_COLUMNS 128 /* most columns of a tile; v = 4 and 8: a group */
#define ENTRY_SLACK 16   /* an entry is written with its filling */

/* Columns of a tile: whole blocks of eight vectors, so that a tile's indices begin with a byte. */
MB_INLINE uint32_t tile_columns(uint32_t length) { return CODE_COLUMNS / (8 * length) * 8 * length; }

MB_INLINE void write_entries(int8_t *out, const int8_t *codebook, const uint8_t *p, uint32_t vectors, uint32_t length,
                             uint32_t stride, uint32_t bits) {
  for (uint32_t k = 0; k < vectors; k += 8, p += bits) {
    uint32_t index[8];
    read_8_indices(index, p, bits);
    for (int i = 0; i < 8; i++, out += length) memcpy(out, codebook + (size_t)index[i] * stride, stride);
  }
}

/* `vectors` vectors, a multiple of 8, whose indices begin at p; ENTRY_SLACK bytes behind them are overwritten. */
static void write_codes(int8_t *out, const int8_t *codebook, const uint8_t *p, uint32_t vectors, uint32_t length,
                        uint32_t bits) {
  const uint32_t stride = mb_vector_stride(length);
  if (stride == 4)
    WITH_CONSTANT_BITS(bits, write_entries, out, codebook, p, vectors, 4, 4)
  else if (stride == 8)
    WITH_CONSTANT_BITS(bits, write_entries, out, codebook, p, vectors, length, 8)
  else
    WITH_CONSTANT_BITS(bits, write_entries, out, codebook, p, vectors, length, 16)
}

/* Codes of the columns begin..end-1 of a row, of one tile. `outlier` is the first of the outliers that does not lie
 * before `begin`. `out` has room for CODE_COLUMNS and ENTRY_SLACK. */
static void write_row(int8_t *out, const mb_vector_parts *parts, uint32_t row, uint32_t begin, uint32_t end,
                      uint32_t outlier) {
  const uint32_t vectors = mb_round_up(end - begin, 8 * parts->length) / parts->length;
  const size_t block = begin / parts->length / 8;
  write_codes(out, parts->codebook, parts->indices + (size_t)row * parts->index_bytes + block * parts->index_bits,
              vectors, parts->length, parts->index_bits);
  if (parts->residual_bits > 0) {
    int8_t more[CODE_COLUMNS + ENTRY_SLACK];
    write_codes(more, parts->residual_codebook,
                parts->residual_indices + (size_t)row * parts->residual_bytes + block * parts->residual_bits, vectors,
                parts->length, parts->residual_bits);
    for (uint32_t c = 0; c < vectors * parts->length; c++)
      out[c] = (int8_t)(uint8_t)((uint8_t)out[c] + (uint8_t)more[c]);
  }
  for (; outlier < parts->outliers && parts->outlier_columns[outlier] < end; outlier++) {
    uint8_t *q = (uint8_t *)out + (parts->outlier_columns[outlier] - begin);
    *q = (uint8_t)(*q + (uint8_t)parts->outlier_values[(size_t)row * parts->outliers + outlier]);
  }
}

#define WRITTEN_STRIDE (CODE_COLUMNS + 2 * ENTRY_SLACK)

/* A tile of a strip's codes; rows that only fill up the strip are the last one again. */
static void write_rows(int8_t rows[MB_STRIP_ROWS][WRITTEN_STRIDE], const mb_matrix *w, uint32_t row, uint32_t begin,
                       uint32_t end) {
  uint32_t outlier = 0;
  while (outlier < w->vector.outliers && w->vector.outlier_columns[outlier] < begin) outlier++;
  for (uint32_t r = 0; r < MB_STRIP_ROWS; r++)
    write_row(rows[r], &w->vector, row + r < w->rows ? row + r : w->rows - 1, begin, end, outlier);
}

#endif

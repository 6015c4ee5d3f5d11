/* Where the parts of an MB_FORMAT_VECTOR payload lie (mobile_bundle/packed_formats.h), and its codes one by one. */
#ifndef MB_PACKED_VECTOR_LAYOUT_H
#define MB_PACKED_VECTOR_LAYOUT_H

#include <string.h>

#include "packed/formats.h"

#define MB_VECTOR_SLACK 16 /* zero bytes behind the last index */

/* Offsets of the sections from the start of the payload, and its size. */
typedef struct {
  uint64_t codebook, row_scales, outlier_columns, outlier_values, indices, residual_indices, bytes;
} mb_vector_offsets;

static inline uint32_t mb_vector_stride(uint32_t length) { return length == 4 ? 4 : length <= 8 ? 8 : 16; }

/* The activations' group that goes with a vector length. */
static inline uint32_t mb_vector_group(uint32_t length) { return length == 4 || length == 8 ? 128 : 0; }

static inline bool mb_vector_flags_valid(uint32_t flags, uint32_t columns) {
  uint32_t v = MB_VECTOR_LENGTH(flags), b = MB_VECTOR_INDEX_BITS(flags), e = MB_VECTOR_RESIDUAL_BITS(flags);
  return v >= 4 && v <= 12 && b >= 8 && b <= 16 && (e == 0 || (e >= 8 && e <= 16)) &&
         MB_VECTOR_OUTLIERS(flags) <= columns && (flags & 11u) == 0;
}

static inline uint64_t mb_align_64(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static inline uint32_t mb_vector_row_bytes(uint32_t columns, uint32_t length, uint32_t bits) {
  return (uint32_t)(((uint64_t)((columns + length - 1) / length) * bits + 7) / 8);
}

static inline mb_vector_offsets mb_vector_layout(uint32_t rows, uint32_t columns, uint32_t flags) {
  const uint32_t v = MB_VECTOR_LENGTH(flags), b = MB_VECTOR_INDEX_BITS(flags), e = MB_VECTOR_RESIDUAL_BITS(flags);
  const uint64_t n = MB_VECTOR_OUTLIERS(flags);
  mb_vector_offsets o = {0};
  uint64_t books = flags & MB_FLAG_SHARED_CODEBOOK ? 0 : ((uint64_t)1 << b) + (e > 0 ? (uint64_t)1 << e : 0);
  o.row_scales = mb_align_64(books * mb_vector_stride(v));
  o.outlier_columns = mb_align_64(o.row_scales + 2 * (uint64_t)rows);
  o.outlier_values = o.outlier_columns + 4 * n;
  o.indices = mb_align_64(o.outlier_values + n * rows);
  uint64_t end = o.indices + (uint64_t)rows * mb_vector_row_bytes(columns, v, b);
  o.residual_indices = end;
  if (e > 0) {
    o.residual_indices = mb_align_64(end);
    end = o.residual_indices + (uint64_t)rows * mb_vector_row_bytes(columns, v, e);
  }
  o.bytes = end + MB_VECTOR_SLACK;
  return o;
}

/* Field k of `bits` bits in a row's index bytes; at most two bytes are read beyond its first. */
static inline uint32_t mb_vector_index(const uint8_t *row, uint32_t k, uint32_t bits) {
  const uint64_t at = (uint64_t)k * bits;
  const uint8_t *p = row + at / 8;
  const uint32_t word = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
  return word >> at % 8 & ((1u << bits) - 1u);
}

/* The code of a column before outliers: C + R, wrapped around. */
static inline uint8_t mb_vector_code(const mb_vector_parts *v, uint32_t row, uint32_t column) {
  const uint32_t k = column / v->length, j = column % v->length;
  const uint32_t i = mb_vector_index(v->indices + (size_t)row * v->index_bytes, k, v->index_bits);
  const uint8_t code = (uint8_t)v->codebook[(size_t)i * v->stride + j];
  if (v->residual_bits == 0) return code;
  const uint32_t r = mb_vector_index(v->residual_indices + (size_t)row * v->residual_bytes, k, v->residual_bits);
  return (uint8_t)(code + (uint8_t)v->residual_codebook[(size_t)r * v->stride + j]);
}

/* Codes q of one row, all w->columns of them. */
static inline void mb_vector_row_codes(const mb_matrix *w, uint32_t row, int8_t *out) {
  const mb_vector_parts *v = &w->vector;
  for (uint32_t c = 0; c < w->columns; c++) out[c] = (int8_t)mb_vector_code(v, row, c);
  for (uint32_t i = 0; i < v->outliers; i++) {
    uint8_t *q = (uint8_t *)out + v->outlier_columns[i];
    *q = (uint8_t)(*q + (uint8_t)v->outlier_values[(size_t)row * v->outliers + i]);
  }
}

#endif

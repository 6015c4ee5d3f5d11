/* Packed weights: how large they are, checked views of them, and one row as float32. */
#ifndef MB_PACKED_FORMATS_H
#define MB_PACKED_FORMATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mobile_bundle/packed_formats.h"

/* Where the parts of an MB_FORMAT_VECTOR payload lie. */
typedef struct {
  uint32_t length, stride, vectors; /* v; bytes of a codebook entry; ceil(columns / v) */
  uint32_t index_bits, residual_bits, outliers;
  uint32_t index_bytes, residual_bytes; /* of one row */
  const int8_t *codebook;               /* NULL until a shared one is bound */
  const int8_t *residual_codebook;      /* NULL: none */
  const uint8_t *row_scales;            /* fp16 */
  const uint32_t *outlier_columns;
  const int8_t *outlier_values; /* [rows][outliers] */
  const uint8_t *indices, *residual_indices;
} mb_vector_parts;

/* A checked view of a blob; nothing is copied. */
typedef struct {
  mb_format format;
  uint32_t rows, columns;
  uint32_t group; /* 0: none */
  uint32_t flags;
  float scale;
  const uint8_t *data;     /* payload */
  const float *row_scales; /* ternary with MB_FLAG_ROW_SCALES, else NULL */
  mb_vector_parts vector;  /* MB_FORMAT_VECTOR alone */
} mb_matrix;

/* Bytes of the payload that a header's format, shape, group and flags ask for; 0 when they are not a valid
 * combination or the size does not fit (rows, columns up to 2^28; no overflow). */
/* Whether only earlier versions wrote and read such blobs: a bundle that has them must be built again. */
bool mb_is_withdrawn(uint32_t format);

uint64_t mb_payload_bytes(uint32_t format, uint32_t rows, uint32_t columns, uint32_t group, uint32_t flags);
/* The view of a blob of which `available` bytes may be read; false and a static reason when it is not valid. The blob
 * must be aligned to 4 bytes; quantised formats have at most 2^20 columns, so that sums fit in 32 bits. The codes are
 * not looked at: a ternary code 3 or an 8-bit code -128, which no blob may hold, gives wrong results, nothing worse. */
bool mb_matrix_view(const void *blob, uint64_t available, mb_matrix *out, const char **reason);
/* Gives a vector matrix its shared codebooks: 2^index_bits + 2^residual_bits entries. */
void mb_vector_bind(mb_matrix *w, const int8_t *codebooks);
/* One row to float32[columns]: embeddings, and the tests' reference. Same value as codecs/ decode in Python. */
void mb_decode_row(const mb_matrix *w, uint32_t row, float *out);

static inline uint32_t mb_round_up(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

#endif

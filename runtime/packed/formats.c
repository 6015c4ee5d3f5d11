/* Reading packed weights: sizes, checked views, and one row as float32. */
#include "packed/formats.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "packed/layout.h"
#include "packed/sparse_layout.h"
#include "packed/vector_layout.h"

#define MAX_DIMENSION ((uint32_t)1 << 28)
/* The kernels sum code * activation in 32 bits: 4 * 2 * 127 * 2^20 < 2^31. */
#define MAX_QUANTISED_COLUMNS ((uint32_t)1 << 20)

/* Which kinds of scales and offsets a format of records has. */
static bool scales_allowed(uint32_t format, uint32_t flags) {
  switch (format) {
    case MB_FORMAT_TRELLIS2:
    case MB_FORMAT_TRELLIS25:
    case MB_FORMAT_TRELLIS3:
      return flags == 0 || flags == MB_FLAG_E4M4;
    case MB_FORMAT_SIGN1:
      return flags == 0;
    case MB_FORMAT_AFFINE2:
    case MB_FORMAT_AFFINE8:
      return flags == 0 || flags == MB_FLAG_ASYMMETRIC;
    default:
      return flags == 0 || flags == MB_FLAG_ASYMMETRIC || mb_has_zeros(flags);
  }
}

uint64_t mb_payload_bytes(uint32_t format, uint32_t rows, uint32_t columns, uint32_t group, uint32_t flags) {
  if (rows == 0 || columns == 0 || rows > MAX_DIMENSION || columns > MAX_DIMENSION) return 0;
  /* With both dimensions at most 2^28 and at most 4.5 bytes per weight every product below stays under 2^60. */
  uint64_t padded_rows = mb_round_up(rows, MB_STRIP_ROWS);
  switch (format) {
    case MB_FORMAT_F32:
      return group == 0 && flags == 0 ? (uint64_t)rows * columns * 4 : 0;
    case MB_FORMAT_BF16:
      return group == 0 && flags == 0 ? (uint64_t)rows * columns * 2 : 0;
    case MB_FORMAT_TERNARY2: {
      if (group != 0 || (flags & ~MB_FLAG_ROW_SCALES) != 0) return 0;
      uint64_t codes = padded_rows * mb_round_up(columns, 16) / 4;
      return codes + (flags & MB_FLAG_ROW_SCALES ? padded_rows * 4 : 0);
    }
    case MB_FORMAT_AFFINE2:
    case MB_FORMAT_AFFINE3:
    case MB_FORMAT_AFFINE4:
    case MB_FORMAT_AFFINE5:
    case MB_FORMAT_AFFINE6:
    case MB_FORMAT_AFFINE8:
    case MB_FORMAT_SIGN1:
    case MB_FORMAT_TRELLIS2:
    case MB_FORMAT_TRELLIS25:
    case MB_FORMAT_TRELLIS3: {
      if (group == 32 && format == MB_FORMAT_TRELLIS25) return 0;
      if ((group != 32 && group != 64 && group != 128) || !scales_allowed(format, flags)) return 0;
      uint64_t record = mb_record_head_bytes(flags) + mb_code_bytes(mb_format_bits(format), group);
      return padded_rows / MB_STRIP_ROWS * (mb_round_up(columns, group) / group) * record;
    }
    case MB_FORMAT_SPARSE_TERNARY: {
      if (group != 0 || (flags & ~MB_FLAG_ROW_SCALES) != 0) return 0;
      uint64_t scales = flags & MB_FLAG_ROW_SCALES ? (uint64_t)mb_round_up(rows, MB_SPARSE_STRIP_ROWS) * 4 : 0;
      return mb_sparse_codes_bytes(rows, columns) + scales;
    }
    case MB_FORMAT_VECTOR:
      if (!mb_vector_flags_valid(flags, columns) || group != mb_vector_group(MB_VECTOR_LENGTH(flags))) return 0;
      return mb_vector_layout(rows, columns, flags).bytes;
    case MB_FORMAT_INT8:
      return group == 0 && flags == 0 ? (uint64_t)rows * columns : 0;
    case MB_FORMAT_BASE3: {
      if (group != 0 || (flags & ~MB_FLAG_ROW_SCALES) != 0) return 0;
      uint64_t codes = (uint64_t)rows * ((columns + 4) / 5);
      return flags & MB_FLAG_ROW_SCALES ? (codes + 3) / 4 * 4 + (uint64_t)rows * 4 : codes;
    }
    case MB_FORMAT_SEEDLM: {
      if ((group != 8 && group != 12) || flags != 0) return 0;
      uint64_t blocks = (uint64_t)rows * ((columns + group - 1) / group);
      return 2 * blocks + (blocks * (group == 8 ? 4 : 5) + 1) / 2;
    }
    case MB_FORMAT_LATTICE:
      return group == 0 && flags == 0 ? MB_LATTICE_HEAD + ((uint64_t)rows * ((columns + 1) / 2) * 13 + 7) / 8 : 0;
    default: /* MB_FORMAT_ENTROPY has no size of its own */
      return 0;
  }
}

bool mb_is_withdrawn(uint32_t format) {
  return format >= MB_FIRST_WITHDRAWN_FORMAT && format <= MB_LAST_WITHDRAWN_FORMAT;
}

static bool all_zero(const uint8_t *bytes, size_t n) {
  uint8_t any = 0;
  for (size_t i = 0; i < n; i++) any |= bytes[i];
  return any == 0;
}

static const char *check_header(const mb_blob_header *h, uint64_t available) {
  if (memcmp(h->magic, MB_BLOB_MAGIC, 4) != 0) return "no packed weight blob (magic)";
  if (h->version != MB_BLOB_VERSION) return "unknown version of the packed weight blob";
  if (mb_is_withdrawn(h->format)) return "weight blob has a trellis code of an earlier version: build the bundle again";
  uint64_t bytes = mb_payload_bytes(h->format, h->rows, h->columns, h->group, h->flags);
  if (bytes == 0) return "format, shape, group and flags of the weight blob are no valid combination";
  if (h->payload_bytes != bytes) return "payload size of the weight blob does not match its shape";
  if (bytes > available - sizeof *h) return "weight blob is cut off";
  if (!isfinite(h->scale)) return "scale of the weight blob is not finite";
  if (h->reserved0 != 0 || !all_zero(h->reserved1, sizeof h->reserved1))
    return "reserved fields of the weight blob are not zero";
  if (h->format >= MB_FIRST_STORED_FORMAT) return "weight blob is a stored form: install the bundle first";
  if (h->format != MB_FORMAT_F32 && h->format != MB_FORMAT_BF16 && h->columns > MAX_QUANTISED_COLUMNS)
    return "quantised weight blob has more than 2^20 columns";
  return NULL;
}

/* Points at the parts of a vector payload; false where an outlier column lies outside of the matrix or out of order. */
static bool view_vector(mb_matrix *w) {
  const mb_vector_offsets at = mb_vector_layout(w->rows, w->columns, w->flags);
  mb_vector_parts *v = &w->vector;
  v->length = MB_VECTOR_LENGTH(w->flags);
  v->stride = mb_vector_stride(v->length);
  v->vectors = (w->columns + v->length - 1) / v->length;
  v->index_bits = MB_VECTOR_INDEX_BITS(w->flags);
  v->residual_bits = MB_VECTOR_RESIDUAL_BITS(w->flags);
  v->outliers = MB_VECTOR_OUTLIERS(w->flags);
  v->index_bytes = mb_vector_row_bytes(w->columns, v->length, v->index_bits);
  v->residual_bytes = v->residual_bits > 0 ? mb_vector_row_bytes(w->columns, v->length, v->residual_bits) : 0;
  v->row_scales = w->data + at.row_scales;
  v->outlier_columns = (const uint32_t *)(const void *)(w->data + at.outlier_columns);
  v->outlier_values = (const int8_t *)(w->data + at.outlier_values);
  v->indices = w->data + at.indices;
  v->residual_indices = w->data + at.residual_indices;
  if ((w->flags & MB_FLAG_SHARED_CODEBOOK) == 0) mb_vector_bind(w, (const int8_t *)w->data);
  for (uint32_t i = 0; i < v->outliers; i++)
    if (v->outlier_columns[i] >= w->columns || (i > 0 && v->outlier_columns[i] <= v->outlier_columns[i - 1]))
      return false;
  return true;
}

void mb_vector_bind(mb_matrix *w, const int8_t *codebooks) {
  mb_vector_parts *v = &w->vector;
  v->codebook = codebooks;
  v->residual_codebook = v->residual_bits > 0 ? codebooks + ((size_t)v->stride << v->index_bits) : NULL;
}

bool mb_matrix_view(const void *blob, uint64_t available, mb_matrix *out, const char **reason) {
  mb_blob_header h;
  const char *wrong;
  if (blob == NULL || available < sizeof h) {
    wrong = "weight blob is shorter than its header";
  } else if ((uintptr_t)blob % 4 != 0) {
    wrong = "weight blob is not aligned"; /* the payload holds float32 values that are read in place */
  } else {
    memcpy(&h, blob, sizeof h);
    wrong = check_header(&h, available);
  }
  if (wrong != NULL) {
    if (reason != NULL) *reason = wrong;
    return false;
  }
  if (reason != NULL) *reason = NULL;
  *out = (mb_matrix){.format = (mb_format)h.format,
                     .rows = h.rows,
                     .columns = h.columns,
                     .group = h.group,
                     .flags = h.flags,
                     .scale = h.scale,
                     .data = (const uint8_t *)blob + sizeof h};
  if (h.format == MB_FORMAT_VECTOR && !view_vector(out)) {
    if (reason != NULL) *reason = "outlier columns of the weight blob are out of order";
    return false;
  }
  if (h.flags & MB_FLAG_ROW_SCALES && h.format == MB_FORMAT_SPARSE_TERNARY)
    out->row_scales = (const float *)(const void *)(out->data + mb_sparse_codes_bytes(h.rows, h.columns));
  if (h.flags & MB_FLAG_ROW_SCALES && h.format == MB_FORMAT_TERNARY2) {
    size_t strips = mb_round_up(h.rows, MB_STRIP_ROWS) / MB_STRIP_ROWS;
    out->row_scales = (const float *)(const void *)(out->data + strips * mb_ternary_strip_bytes(out));
  }
  return true;
}

static void decode_ternary(const mb_matrix *w, uint32_t row, float *out) {
  const uint8_t *strip = w->data + row / MB_STRIP_ROWS * mb_ternary_strip_bytes(w);
  float scale = w->row_scales != NULL ? w->row_scales[row] : w->scale;
  for (uint32_t first = 0; first < w->columns; first += 16) {
    int8_t codes[16];
    mb_row_codes(2, strip + (size_t)first * 4, row % MB_STRIP_ROWS, 16, codes);
    for (uint32_t c = 0; c < 16 && first + c < w->columns; c++) out[first + c] = scale * (float)(codes[c] - 1);
  }
}

static void decode_sparse(const mb_matrix *w, uint32_t row, float *out) {
  float scale = w->row_scales != NULL ? w->row_scales[row] : w->scale;
  for (uint32_t tile = 0, first = 0; tile < mb_sparse_tiles(w->columns); tile++) {
    const uint8_t *block = mb_sparse_strip(w, tile, row) + MB_SPARSE_HEAD;
    const uint32_t end = first + mb_sparse_tile_columns(w->columns, tile);
    for (; first < end; first += 32, block += MB_SPARSE_BLOCK) {
      int8_t codes[32];
      mb_sparse_block_codes(block, row % MB_SPARSE_STRIP_ROWS, codes);
      for (uint32_t c = 0; c < 32 && first + c < w->columns; c++) out[first + c] = scale * (float)codes[c];
    }
  }
}

static void decode_vector(const mb_matrix *w, uint32_t row, float *out) {
  uint16_t half;
  memcpy(&half, w->vector.row_scales + 2 * (size_t)row, 2);
  const float d = mb_f16_to_f32(half);
  /* The codes are written into the row's own place, from its end, which the floats then overwrite from its start. */
  int8_t *codes = (int8_t *)(void *)out + (size_t)w->columns * 3;
  mb_vector_row_codes(w, row, codes);
  for (uint32_t c = 0; c < w->columns; c++) out[c] = w->scale * (d * (float)codes[c]);
}

static void decode_affine(const mb_matrix *w, uint32_t row, float *out) {
  const uint8_t *record = w->data + row / MB_STRIP_ROWS * mb_affine_strip_bytes(w);
  const bool asymmetric = mb_is_asymmetric(w), zeros = mb_has_zeros(w->flags);
  uint32_t bits = mb_format_bits(w->format), r = row % MB_STRIP_ROWS;
  int32_t offset = asymmetric ? 0 : mb_symmetric_offset(bits);
  for (uint32_t first = 0; first < w->columns; first += w->group, record += mb_record_bytes(w)) {
    int8_t codes[MB_MAX_GROUP];
    const float d = mb_f16_to_f32(mb_record_scale(record, r, w->flags));
    const float zero = zeros ? mb_record_zero(record, r, bits) : (float)offset;
    const float m = asymmetric && !zeros ? mb_f16_to_f32(mb_record_offset(record, r)) : 0;
    mb_row_codes(bits, record + mb_record_head_bytes(w->flags), r, w->group, codes);
    for (uint32_t c = 0; c < w->group && first + c < w->columns; c++) {
      float value = d * ((float)codes[c] - zero);
      out[first + c] = w->scale * (asymmetric && !zeros ? value + m : value);
    }
  }
}

void mb_decode_row(const mb_matrix *w, uint32_t row, float *out) {
  size_t first = (size_t)row * w->columns;
  switch (w->format) {
    case MB_FORMAT_F32:
      memcpy(out, w->data + first * 4, (size_t)w->columns * 4);
      break;
    case MB_FORMAT_BF16:
      for (uint32_t c = 0; c < w->columns; c++) {
        uint16_t half;
        memcpy(&half, w->data + (first + c) * 2, 2);
        out[c] = mb_bf16_to_f32(half);
      }
      break;
    case MB_FORMAT_TERNARY2:
      decode_ternary(w, row, out);
      break;
    case MB_FORMAT_SPARSE_TERNARY:
      decode_sparse(w, row, out);
      break;
    case MB_FORMAT_VECTOR:
      decode_vector(w, row, out);
      break;
    case MB_FORMAT_INT8:
      for (uint32_t c = 0; c < w->columns; c++) out[c] = (float)(int8_t)w->data[first + c];
      break;
    default:
      decode_affine(w, row, out);
      break;
  }
}

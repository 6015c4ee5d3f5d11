#include "storage/streams.h"

#include <string.h>

#include "packed/layout.h"
#include "packed/sparse_layout.h"
#include "packed/vector_layout.h"

static mb_part split(uint32_t stream, uint32_t first, uint32_t second, uint64_t units) {
  return (mb_part){MB_PART_SPLIT, stream, first + second, {first, second, 0, 0}, units};
}

static mb_part bytes(uint32_t stream, uint64_t count) { return split(stream, 1, 0, count); }

static mb_part numbers(uint32_t stream, uint32_t width, uint64_t count) {
  mb_part part = {MB_PART_INTERLEAVED, stream, width, {1, 1, 0, 0}, count};
  if (width == 4) part.symbols[2] = part.symbols[3] = 1;
  return part;
}

/* Empty parts and records without parts or repeats are left out. */
static void add(mb_stream_layout *layout, uint64_t count, const mb_part *parts, uint32_t n) {
  mb_record *record = &layout->record[layout->records];
  *record = (mb_record){.count = count};
  for (uint32_t i = 0; i < n; i++)
    if (parts[i].units > 0) record->part[record->parts++] = parts[i];
  if (count > 0 && record->parts > 0) layout->records++;
}

static void add_part(mb_stream_layout *layout, mb_part part) { add(layout, 1, &part, 1); }

static void affine(const mb_blob_header *h, mb_stream_layout *layout) {
  const uint32_t bits = mb_format_bits(h->format);
  const uint64_t code_bytes = mb_code_bytes(bits, h->group);
  mb_part codes = bytes(4, code_bytes);
  if (h->format == MB_FORMAT_AFFINE3 || h->format == MB_FORMAT_TRELLIS3)
    codes = (mb_part){MB_PART_THREE_BITS, 4, 192, {256, 0, 0, 0}, code_bytes / 192};
  if (h->format == MB_FORMAT_AFFINE5 || h->format == MB_FORMAT_TRELLIS25) codes = split(4, 256, 64, code_bytes / 320);
  if (h->format == MB_FORMAT_AFFINE6) codes = split(4, 128, 64, code_bytes / 192);
  const uint64_t offsets = h->flags & MB_FLAG_ASYMMETRIC ? MB_STRIP_ROWS : 0;
  const mb_part halves[] = {numbers(0, 2, MB_STRIP_ROWS), numbers(2, 2, offsets), codes};
  const mb_part whole[] = {bytes(0, MB_STRIP_ROWS), bytes(2, offsets), codes};
  const mb_part *parts = h->flags & MB_FLAG_E4M4 ? whole : halves;
  const uint64_t strips = mb_round_up(h->rows, MB_STRIP_ROWS) / MB_STRIP_ROWS;
  add(layout, strips * (mb_round_up(h->columns, h->group) / h->group), parts, 3);
}

static void sparse(const mb_blob_header *h, mb_stream_layout *layout) {
  const uint64_t strips = mb_round_up(h->rows, MB_SPARSE_STRIP_ROWS) / MB_SPARSE_STRIP_ROWS;
  const uint32_t tiles = mb_sparse_tiles(h->columns);
  for (uint32_t last = 0; last < 2; last++) { /* all tiles but the last are equally wide */
    const uint32_t columns = mb_sparse_tile_columns(h->columns, last ? tiles - 1 : 0);
    const mb_part parts[] = {numbers(0, 4, MB_SPARSE_STRIP_ROWS), split(4, 128, 32, columns / 32)};
    add(layout, last ? strips : strips * (tiles - 1), parts, 2);
  }
  if (h->flags & MB_FLAG_ROW_SCALES) add_part(layout, numbers(6, 4, strips * MB_SPARSE_STRIP_ROWS));
}

static void indices(mb_stream_layout *layout, uint32_t stream, uint32_t rows, uint32_t row_bytes, uint32_t bits) {
  if (bits == 8) {
    add_part(layout, bytes(stream, (uint64_t)rows * row_bytes));
    return;
  }
  const mb_part parts[] = {{MB_PART_INDICES, stream, bits, {8, bits - 8, 0, 0}, row_bytes / bits},
                           bytes(stream + 2, row_bytes % bits)};
  add(layout, rows, parts, 2);
}

static void vector(const mb_blob_header *h, mb_stream_layout *layout) {
  const mb_vector_offsets at = mb_vector_layout(h->rows, h->columns, h->flags);
  const uint32_t v = MB_VECTOR_LENGTH(h->flags), stride = mb_vector_stride(v);
  const uint32_t b = MB_VECTOR_INDEX_BITS(h->flags), e = MB_VECTOR_RESIDUAL_BITS(h->flags);
  const uint64_t outliers = MB_VECTOR_OUTLIERS(h->flags), rows = h->rows;
  uint64_t entries = 0;
  if ((h->flags & MB_FLAG_SHARED_CODEBOOK) == 0) entries = ((uint64_t)1 << b) + (e > 0 ? (uint64_t)1 << e : 0);
  const uint32_t index_bytes = mb_vector_row_bytes(h->columns, v, b);
  add_part(layout, split(0, v, stride - v, entries));
  add_part(layout, bytes(1, at.row_scales - entries * stride));
  add_part(layout, numbers(2, 2, rows));
  add_part(layout, bytes(1, at.outlier_columns - at.row_scales - 2 * rows));
  add_part(layout, numbers(4, 4, outliers));
  add_part(layout, bytes(8, outliers * rows));
  add_part(layout, bytes(1, at.indices - at.outlier_values - outliers * rows));
  indices(layout, 9, h->rows, index_bytes, b);
  if (e > 0) {
    add_part(layout, bytes(1, at.residual_indices - at.indices - rows * index_bytes));
    indices(layout, 12, h->rows, mb_vector_row_bytes(h->columns, v, e), e);
  }
  add_part(layout, bytes(1, MB_VECTOR_SLACK));
}

void mb_stream_layout_of(const mb_blob_header *h, mb_stream_layout *layout) {
  memset(layout, 0, sizeof *layout);
  switch (h->format) {
    case MB_FORMAT_F32:
      add_part(layout, numbers(0, 4, (uint64_t)h->rows * h->columns));
      break;
    case MB_FORMAT_BF16:
      add_part(layout, numbers(0, 2, (uint64_t)h->rows * h->columns));
      break;
    case MB_FORMAT_TERNARY2: {
      const uint64_t rows = mb_round_up(h->rows, MB_STRIP_ROWS);
      add_part(layout, bytes(0, rows * mb_round_up(h->columns, 16) / 4));
      if (h->flags & MB_FLAG_ROW_SCALES) add_part(layout, numbers(1, 4, rows));
      break;
    }
    case MB_FORMAT_SPARSE_TERNARY:
      sparse(h, layout);
      break;
    case MB_FORMAT_VECTOR:
      vector(h, layout);
      break;
    case MB_FORMAT_INT8:
      add_part(layout, bytes(0, (uint64_t)h->rows * h->columns));
      break;
    default:
      affine(h, layout);
      break;
  }
}

uint64_t mb_stream_next(const mb_stream_layout *layout, mb_stream_cursor *c, uint64_t room, const mb_part **part) {
  if (c->record == layout->records) return 0;
  const mb_record *record = &layout->record[c->record];
  *part = &record->part[c->part];
  const uint64_t left = (*part)->units - c->unit;
  const uint64_t units = left * (*part)->unit <= room ? left : room / (*part)->unit; /* a division is slow */
  c->unit += units;
  if (c->unit == (*part)->units) {
    c->unit = 0;
    if (++c->part == record->parts) {
      c->part = 0;
      if (++c->repeat == record->count) {
        c->repeat = 0;
        c->record++;
      }
    }
  }
  return units;
}

static void split_three_bits(const uint8_t *restrict packed, uint8_t *restrict s) {
  for (uint32_t i = 0; i < 64; i++) {
    const uint32_t low0 = packed[i], low1 = packed[64 + i], high = packed[128 + i];
    s[i] = (uint8_t)((low0 & 15) | (high & 3) << 4);
    s[64 + i] = (uint8_t)(low0 >> 4 | (high & 12) << 2);
    s[128 + i] = (uint8_t)((low1 & 15) | (high & 48));
    s[192 + i] = (uint8_t)(low1 >> 4 | (high >> 6) << 4);
  }
}

static void merge_three_bits(const uint8_t *restrict s, uint8_t *restrict packed) {
  for (uint32_t i = 0; i < 64; i++) {
    const uint8_t a = s[i], b = s[64 + i], c = s[128 + i], d = s[192 + i];
    packed[i] = (uint8_t)((a & 15) | b << 4);
    packed[64 + i] = (uint8_t)((c & 15) | d << 4);
    packed[128 + i] = (uint8_t)((a >> 4 & 3) | (b >> 2 & 12) | (c & 48) | (d << 2 & 192));
  }
}

/* `restrict` lets the compiler use vectors here: a byte written might otherwise be one of those read. */
static void merge_2(const uint8_t *restrict a, const uint8_t *restrict b, uint64_t units, uint8_t *restrict packed) {
  for (uint64_t i = 0; i < units; i++) {
    packed[2 * i] = a[i];
    packed[2 * i + 1] = b[i];
  }
}

static void merge_4(const uint8_t *restrict a, const uint8_t *restrict b, const uint8_t *restrict c,
                    const uint8_t *restrict d, uint64_t units, uint8_t *restrict packed) {
  for (uint64_t i = 0; i < units; i++) {
    packed[4 * i] = a[i];
    packed[4 * i + 1] = b[i];
    packed[4 * i + 2] = c[i];
    packed[4 * i + 3] = d[i];
  }
}

/* Eight fields of `bits` <= 16 bits, in `bits` bytes. */
static void read_fields(const uint8_t *packed, uint32_t bits, uint32_t field[8]) {
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint32_t k = 0; k < 8; k++) {
    for (; have < bits; have += 8) pending |= (uint64_t)*packed++ << have;
    field[k] = (uint32_t)pending & ((1u << bits) - 1);
    pending >>= bits;
    have -= bits;
  }
}

static void write_fields(const uint32_t field[8], uint32_t bits, uint8_t *packed) {
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint32_t k = 0; k < 8; k++) {
    pending |= (uint64_t)field[k] << have;
    for (have += bits; have >= 8; have -= 8) {
      *packed++ = (uint8_t)pending;
      pending >>= 8;
    }
  }
}

static void split_indices(const uint8_t *packed, uint32_t bits, uint8_t *high, uint8_t *low) {
  uint32_t field[8];
  read_fields(packed, bits, field);
  for (uint32_t k = 0; k < 8; k++) {
    high[k] = (uint8_t)(field[k] >> (bits - 8));
    field[k] &= (1u << (bits - 8)) - 1;
  }
  write_fields(field, bits - 8, low);
}

static void merge_indices(const uint8_t *high, const uint8_t *low, uint32_t bits, uint8_t *packed) {
  uint32_t field[8];
  read_fields(low, bits - 8, field);
  for (uint32_t k = 0; k < 8; k++) field[k] |= (uint32_t)high[k] << (bits - 8);
  write_fields(field, bits, packed);
}

void mb_stream_split(const mb_part *part, uint64_t units, const uint8_t *packed, uint8_t *s[MB_PART_STREAMS]) {
  const uint32_t unit = part->unit, first = part->symbols[0], second = part->symbols[1];
  switch (part->kind) {
    case MB_PART_SPLIT:
      if (second == 0) {
        memcpy(s[0], packed, units * unit);
        break;
      }
      for (uint64_t i = 0; i < units; i++) {
        memcpy(s[0] + i * first, packed + i * unit, first);
        memcpy(s[1] + i * second, packed + i * unit + first, second);
      }
      break;
    case MB_PART_INTERLEAVED:
      for (uint64_t i = 0; i < units; i++)
        for (uint32_t k = 0; k < unit; k++) s[k][i] = packed[i * unit + k];
      break;
    case MB_PART_THREE_BITS:
      for (uint64_t i = 0; i < units; i++) split_three_bits(packed + i * unit, s[0] + i * first);
      break;
    case MB_PART_INDICES:
      for (uint64_t i = 0; i < units; i++) split_indices(packed + i * unit, unit, s[0] + i * first, s[1] + i * second);
      break;
  }
  for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
    if (part->symbols[k] > 0) s[k] += units * part->symbols[k];
}

void mb_stream_merge(const mb_part *part, uint64_t units, const uint8_t *s[MB_PART_STREAMS], uint8_t *packed) {
  const uint32_t unit = part->unit, first = part->symbols[0], second = part->symbols[1];
  switch (part->kind) {
    case MB_PART_SPLIT:
      if (second == 0) {
        memcpy(packed, s[0], units * unit);
        break;
      }
      for (uint64_t i = 0; i < units; i++) {
        memcpy(packed + i * unit, s[0] + i * first, first);
        memcpy(packed + i * unit + first, s[1] + i * second, second);
      }
      break;
    case MB_PART_INTERLEAVED:
      if (unit == 2)
        merge_2(s[0], s[1], units, packed);
      else
        merge_4(s[0], s[1], s[2], s[3], units, packed);
      break;
    case MB_PART_THREE_BITS:
      for (uint64_t i = 0; i < units; i++) merge_three_bits(s[0] + i * first, packed + i * unit);
      break;
    case MB_PART_INDICES:
      for (uint64_t i = 0; i < units; i++) merge_indices(s[0] + i * first, s[1] + i * second, unit, packed + i * unit);
      break;
  }
  for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
    if (part->symbols[k] > 0) s[k] += units * part->symbols[k];
}

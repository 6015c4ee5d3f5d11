/* Where things lie in a payload (mobile_bundle/packed_formats.h), in one place for all kernels. */
#ifndef MB_PACKED_LAYOUT_H
#define MB_PACKED_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "packed/formats.h"
#include "packed/trellis_layout.h"

#define MB_MAX_GROUP 128

/* How a strip format's codes lie: bits per weight, for trellis codes twice that and MB_TRELLIS; 0: row by row. */
#define MB_TRELLIS 16u
#define MB_TRELLIS_2 (MB_TRELLIS + 4)
#define MB_TRELLIS_25 (MB_TRELLIS + 5)
#define MB_TRELLIS_3 (MB_TRELLIS + 6)
static inline uint32_t mb_format_bits(uint32_t format) {
  switch (format) {
    case MB_FORMAT_SIGN1:
      return 1;
    case MB_FORMAT_TERNARY2:
    case MB_FORMAT_AFFINE2:
      return 2;
    case MB_FORMAT_AFFINE3:
      return 3;
    case MB_FORMAT_AFFINE4:
      return 4;
    case MB_FORMAT_AFFINE5:
      return 5;
    case MB_FORMAT_AFFINE6:
      return 6;
    case MB_FORMAT_AFFINE8:
      return 8;
    case MB_FORMAT_TRELLIS2:
      return MB_TRELLIS_2;
    case MB_FORMAT_TRELLIS25:
      return MB_TRELLIS_25;
    case MB_FORMAT_TRELLIS3:
      return MB_TRELLIS_3;
    default:
      return 0;
  }
}

/* Formats of records, one per strip and group of columns: scales, then codes. Signs are the codes 0 and 2, a trellis'
 * codes its table's entries. */
static inline bool mb_is_affine(uint32_t format) {
  return (format >= MB_FORMAT_AFFINE2 && format <= MB_FORMAT_AFFINE8) ||
         (format >= MB_FORMAT_AFFINE5 && format <= MB_FORMAT_SIGN1) ||
         (format >= MB_FORMAT_TRELLIS2 && format <= MB_FORMAT_TRELLIS25);
}

/* The place of a strip format in a table of kernels: ternary; affine 2-4, 8, 5, 6; signs; trellis 2, 3, 2.5. */
#define MB_STRIP_FORMATS 11
static inline uint32_t mb_strip_format(uint32_t format) {
  if (format <= MB_FORMAT_AFFINE8) return format - MB_FORMAT_TERNARY2;
  return format <= MB_FORMAT_SIGN1 ? format - MB_FORMAT_AFFINE5 + 5 : format - MB_FORMAT_TRELLIS2 + 8;
}

/* What a symmetric code is relative to: 2^(bits-1); 8-bit codes are signed already. */
static inline int32_t mb_symmetric_offset(uint32_t bits) {
  return bits > MB_TRELLIS ? MB_TRELLIS_OFFSET : bits == 8 ? 0 : (int32_t)1 << (bits - 1);
}

static inline uint32_t mb_ternary_blocks(const mb_matrix *w) { return mb_round_up(w->columns, 16) / 16; }
static inline size_t mb_ternary_strip_bytes(const mb_matrix *w) { return (size_t)mb_ternary_blocks(w) * 64; }

static inline uint32_t mb_affine_groups(const mb_matrix *w) { return mb_round_up(w->columns, w->group) / w->group; }
static inline bool mb_is_asymmetric(const mb_matrix *w) { return (w->flags & MB_FLAG_ASYMMETRIC) != 0; }
/* One record (a group of columns of one strip): 16 scales, perhaps 16 offsets or zero points, then the codes. flags:
 * the matrix's. */
static inline size_t mb_record_head_bytes(uint32_t flags) {
  return (flags & MB_FLAG_ASYMMETRIC ? 2 : 1) * (flags & MB_FLAG_E4M4 ? 16 : 32);
}
static inline size_t mb_code_bytes(uint32_t bits, uint32_t columns) {
  return (size_t)columns * (bits > MB_TRELLIS ? bits - MB_TRELLIS : 2 * bits); /* x 16 / 8 */
}
static inline size_t mb_record_bytes(const mb_matrix *w) {
  return mb_record_head_bytes(w->flags) + mb_code_bytes(mb_format_bits(w->format), w->group);
}
static inline size_t mb_affine_strip_bytes(const mb_matrix *w) {
  return (size_t)mb_affine_groups(w) * mb_record_bytes(w);
}

/* The fp16 scale of row r (0..15) of a record's strip, and its fp16 offset. */
static inline uint16_t mb_record_scale(const uint8_t *record, uint32_t r, uint32_t flags) {
  if (flags & MB_FLAG_E4M4) return (uint16_t)(record[r] << MB_E4M4_SHIFT);
  uint16_t half;
  memcpy(&half, record + 2 * (size_t)r, 2);
  return half;
}
static inline uint16_t mb_record_offset(const uint8_t *record, uint32_t r) {
  uint16_t half;
  memcpy(&half, record + 32 + 2 * (size_t)r, 2);
  return half;
}

/* Asymmetric, with scales of one byte: the code that stands for 0 is a byte of such units, so that it lies among the
 * codes. */
static inline float mb_zero_unit(uint32_t bits) { return 1.0f / (float)(256u >> bits); }
static inline float mb_record_zero(const uint8_t *record, uint32_t r, uint32_t bits) {
  return (float)record[16 + r] * mb_zero_unit(bits);
}
/* Whether a matrix has them. */
static inline bool mb_has_zeros(uint32_t flags) { return flags == (MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4); }

static inline uint32_t mb_word(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The codes of one row (0..15) of a strip for `columns` columns from the start of `codes`: columns is a multiple of 16
 * for 2 and 6 bits, 32 for 3 and 5 bits (trellis codes alike), 64 for 2.5 bits, 8 for signs (1 bit: codes 0 and 2) and
 * 4 bits, and 4 for 8 bits. */
static inline void mb_row_codes(uint32_t bits, const uint8_t *codes, uint32_t row, uint32_t columns, int8_t *out) {
  const uint8_t *own = codes + 4 * row;
  for (uint32_t c = 0; c < columns; c++) {
    uint32_t k = c % 4;
    switch (bits) {
      case 1:
        out[c] = (int8_t)(codes[(size_t)(c / 8) * 16 + row] >> c % 8 << 1 & 2);
        break;
      case 2:
        out[c] = (int8_t)(own[c / 16 * 64 + k] >> c % 16 / 4 * 2 & 3);
        break;
      case 3: {
        const uint8_t *block = own + (size_t)(c / 32) * 192;
        uint32_t low = block[c % 32 / 16 * 64 + k] >> c % 16 / 4 * 2 & 3u;
        uint32_t high = block[128 + k] >> c % 32 / 4 & 1u;
        out[c] = (int8_t)(low | high << 2);
        break;
      }
      case 4:
        out[c] = (int8_t)(own[c / 8 * 64 + k] >> c % 8 / 4 * 4 & 15);
        break;
      case 5: {
        const uint8_t *block = own + (size_t)(c / 32) * 320;
        uint32_t high = block[c % 32 / 8 * 64 + k] >> c % 8 / 4 * 4 & 15u;
        uint32_t low = block[256 + k] >> c % 32 / 4 & 1u;
        out[c] = (int8_t)(high << 1 | low);
        break;
      }
      case 6: {
        const uint8_t *block = own + (size_t)(c / 16) * 192;
        uint32_t high = block[c % 16 / 8 * 64 + k] >> c % 8 / 4 * 4 & 15u;
        uint32_t low = block[128 + k] >> c % 16 / 4 * 2 & 3u;
        out[c] = (int8_t)(high << 2 | low);
        break;
      }
      case MB_TRELLIS_2:
        out[c] = (int8_t)mb_trellis_entry_2(mb_word(own + (size_t)(c / 16) * 64), c % 16);
        break;
      case MB_TRELLIS_25: {
        const uint8_t *block = own + (size_t)(c / 64) * 320;
        uint32_t plane = block[256 + k] >> (c % 64 / 16 * 2 + c % 16 / 8) & 1u;
        out[c] = (int8_t)mb_trellis_entry_25(mb_word(block + c % 64 / 16 * 64), c % 16, plane);
        break;
      }
      case MB_TRELLIS_3: {
        const uint8_t *block = own + (size_t)(c / 32) * 192;
        uint32_t plane = block[128 + k] >> c % 32 / 4 & 1u;
        out[c] = (int8_t)mb_trellis_entry_3(mb_word(block + c % 32 / 16 * 64), c % 16, plane);
        break;
      }
      default:
        out[c] = (int8_t)own[(size_t)(c / 4) * 64 + k];
        break;
    }
  }
}

/* Rows of a multiply that exist: row_end may be the padded row count. */
static inline uint32_t mb_last_row(const mb_matrix *w, uint32_t row_end) {
  return row_end < w->rows ? row_end : w->rows;
}

#endif

/* Packs random weights, written from the text of mobile_bundle/packed_formats.h and not from the kernels' code. */
#ifndef MB_TEST_PACK_H
#define MB_TEST_PACK_H

#include <math.h>

#include "base/half.h"
#include "kernels/kernels.h"
#include "packed/layout.h"
#include "support.h"

typedef struct {
  uint32_t format, rows, columns, group, flags;
  guarded blob;
  int16_t *codes; /* [rows][columns] as stored, 8 bits signed; ternary 0..2; a sign's bit; what a window says */
  float *weights; /* [rows][columns] */
} packed;

static inline void put_bits(uint8_t *byte, uint32_t shift, uint32_t value) {
  *byte = (uint8_t)(*byte | value << shift);
}

static inline void pack_code(const packed *t, uint8_t *codes, uint32_t r, uint32_t c, uint32_t code) {
  switch (t->format) {
    case MB_FORMAT_TERNARY2:
    case MB_FORMAT_AFFINE2:
    case MB_FORMAT_TRELLIS2:
      put_bits(codes + c / 16 * 64 + 4 * r + c % 4, 2 * (c % 16 / 4), code);
      break;
    case MB_FORMAT_AFFINE3:
    case MB_FORMAT_TRELLIS3:
      put_bits(codes + c / 32 * 192 + c % 32 / 16 * 64 + 4 * r + c % 4, 2 * (c % 16 / 4), code & 3);
      put_bits(codes + c / 32 * 192 + 128 + 4 * r + c % 4, c % 32 / 4, code >> 2);
      break;
    case MB_FORMAT_TRELLIS25:
      put_bits(codes + c / 64 * 320 + c % 64 / 16 * 64 + 4 * r + c % 4, 2 * (c % 16 / 4), code & 3);
      if (c / 4 % 2 == 0) put_bits(codes + c / 64 * 320 + 256 + 4 * r + c % 4, c % 64 / 16 * 2 + c % 16 / 8, code >> 2);
      break;
    case MB_FORMAT_AFFINE4:
      put_bits(codes + c / 8 * 64 + 4 * r + c % 4, 4 * (c % 8 / 4), code);
      break;
    case MB_FORMAT_AFFINE5:
      put_bits(codes + c / 32 * 320 + c % 32 / 8 * 64 + 4 * r + c % 4, 4 * (c % 8 / 4), code / 2);
      put_bits(codes + c / 32 * 320 + 256 + 4 * r + c % 4, c % 32 / 4, code % 2);
      break;
    case MB_FORMAT_AFFINE6:
      put_bits(codes + c / 16 * 192 + c % 16 / 8 * 64 + 4 * r + c % 4, 4 * (c % 8 / 4), code / 4);
      put_bits(codes + c / 16 * 192 + 128 + 4 * r + c % 4, 2 * (c % 16 / 4), code % 4);
      break;
    case MB_FORMAT_SIGN1:
      put_bits(codes + c / 8 * 16 + r, c % 8, code);
      break;
    default:
      codes[c / 4 * 64 + 4 * r + c % 4] = (uint8_t)code;
  }
}

static inline uint32_t code_bits(uint32_t format) {
  switch (format) {
    case MB_FORMAT_SIGN1:
      return 1;
    case MB_FORMAT_AFFINE3:
    case MB_FORMAT_TRELLIS3:
    case MB_FORMAT_TRELLIS25: /* at most */
      return 3;
    case MB_FORMAT_AFFINE4:
      return 4;
    case MB_FORMAT_AFFINE5:
      return 5;
    case MB_FORMAT_AFFINE6:
      return 6;
    case MB_FORMAT_AFFINE8:
      return 8;
    default:
      return 2;
  }
}

static inline int16_t random_code(uint32_t format, bool extreme, uint32_t row) {
  int low = format == MB_FORMAT_AFFINE8 ? -127 : 0;
  int high = format == MB_FORMAT_TERNARY2 ? 2 : format == MB_FORMAT_AFFINE8 ? 127 : (1 << code_bits(format)) - 1;
  if (extreme) return (int16_t)(row % 3 == 1 ? low : high);
  return (int16_t)(low + (int)random_below((uint32_t)(high - low + 1)));
}

static inline void put_half(uint8_t *p, float f) {
  uint16_t h = mb_f32_to_f16(f);
  memcpy(p, &h, 2);
}

/* A scale of row `in`, as the flags say, and what it stands for. */
static inline void put_scale(uint8_t *record, uint32_t in, uint32_t flags, float f) {
  if ((flags & MB_FLAG_E4M4) == 0) {
    put_half(record + 2 * in, f);
    return;
  }
  record[in] = f > 0 ? (uint8_t)(1 + random_below(255)) : 0;
}

static inline float get_half(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return mb_f16_to_f32(h);
}

static inline float get_scale(const uint8_t *record, uint32_t in, uint32_t flags) {
  if ((flags & MB_FLAG_E4M4) == 0) return get_half(record + 2 * in);
  const int exponent = record[in] >> 4, mantissa = record[in] & 15;
  return exponent == 0 ? ldexpf((float)mantissa, -18) : ldexpf((float)(16 + mantissa), exponent - 19);
}

/* The upper bit of the pair at a place (0..15, from 16 on round the circle) of the 16 columns' codes. */
static inline uint32_t upper_bit(const uint32_t *codes, uint32_t place) {
  return codes[place % 4 * 4 + place % 16 / 4] >> 1 & 1;
}

/* What the window of column c of a group says, less 16; the group's codes are given whole. */
static inline int trellis_value(uint32_t format, const uint32_t *codes, uint32_t c) {
  static const int two[16] = {4, 11, 13, 8, 15, 19, 22, 17, 10, 15, 17, 13, 19, 24, 28, 21};
  static const int three[16] = {3, 7, 16, 18, 12, 14, 21, 23, 9, 11, 18, 20, 14, 16, 25, 29};
  static const int half[2][16] = {{1, 7, 16, 19, 10, 13, 22, 26, 6, 10, 19, 22, 13, 16, 25, 31},
                                  {1, 8, 5, 12, 15, 20, 17, 22, 10, 15, 12, 17, 20, 26, 24, 31}};
  const uint32_t *circle = codes + c / 16 * 16;
  const uint32_t f = c % 16 / 4, place = 4 * (c % 4) + f + 16;
  const bool plane = format == MB_FORMAT_TRELLIS3 || (format == MB_FORMAT_TRELLIS25 && f % 2 == 0);
  const uint32_t second = plane ? codes[c] >> 2 : upper_bit(circle, place - 1);
  const uint32_t window =
      (upper_bit(circle, place - 2) ^ upper_bit(circle, place - 3)) | second << 1 | (codes[c] & 3) << 2;
  return (format == MB_FORMAT_TRELLIS2 ? two : format == MB_FORMAT_TRELLIS3 ? three : half[f % 2])[window] - 16;
}

/* extreme: rows of only the largest or only the smallest code. */
static inline packed pack_random(uint32_t format, uint32_t rows, uint32_t columns, uint32_t group, uint32_t flags,
                                 bool extreme) {
  packed t = {.format = format, .rows = rows, .columns = columns, .group = group, .flags = flags};
  uint64_t bytes = mb_payload_bytes(format, rows, columns, group, flags);
  t.blob = guarded_new(sizeof(mb_blob_header) + (size_t)bytes);
  t.codes = malloc((size_t)rows * columns * sizeof *t.codes);
  t.weights = malloc((size_t)rows * columns * sizeof *t.weights);
  float scale = format == MB_FORMAT_TERNARY2 ? 0.037f : mb_is_affine(format) ? 0x1p-6f : 1.0f;
  mb_blob_header h = {.magic = {'M', 'B', 'W', 'B'},
                      .version = MB_BLOB_VERSION,
                      .format = (uint16_t)format,
                      .rows = rows,
                      .columns = columns,
                      .group = group,
                      .flags = flags,
                      .scale = scale,
                      .payload_bytes = bytes};
  memcpy(t.blob.at, &h, sizeof h);
  uint8_t *p = (uint8_t *)t.blob.at + sizeof h;
  uint32_t padded_rows = (rows + 15) / 16 * 16;
  size_t bits = code_bits(format);

  for (uint32_t r = 0; r < padded_rows; r++) {
    float row_scale = r < rows ? 0.01f * (1.0f + random_unit() * 0.5f) : 0;
    uint32_t in = r % 16;
    if (format == MB_FORMAT_TERNARY2) {
      uint32_t padded = (columns + 15) / 16 * 16;
      uint8_t *strip = p + (size_t)(r / 16) * padded * 4;
      if (flags & MB_FLAG_ROW_SCALES) {
        memcpy(p + (size_t)padded_rows * padded / 4 + 4 * r, &row_scale, 4);
      } else {
        row_scale = scale;
      }
      for (uint32_t c = 0; c < padded; c++) {
        bool real = r < rows && c < columns;
        int16_t code = real ? random_code(format, extreme, r) : 1;
        pack_code(&t, strip, in, c, (uint32_t)code);
        if (!real) continue;
        t.codes[(size_t)r * columns + c] = code;
        t.weights[(size_t)r * columns + c] = row_scale * (float)(code - 1);
      }
      continue;
    }
    if (r >= rows && !mb_is_affine(format)) break;
    if (!mb_is_affine(format)) {
      for (uint32_t c = 0; c < columns; c++) {
        size_t i = (size_t)r * columns + c;
        float value = random_unit();
        if (format == MB_FORMAT_BF16) value = mb_bits_float(mb_float_bits(value) & 0xffff0000u);
        uint32_t whole = mb_float_bits(value);
        uint16_t half = (uint16_t)(whole >> 16);
        if (format == MB_FORMAT_BF16)
          memcpy(p + 2 * i, &half, 2);
        else
          memcpy(p + 4 * i, &whole, 4);
        t.weights[i] = value;
      }
      continue;
    }
    uint32_t groups = (columns + group - 1) / group;
    size_t head = (flags & MB_FLAG_ASYMMETRIC ? 64 : 32) / (flags & MB_FLAG_E4M4 ? 2 : 1),
           record = head + (format == MB_FORMAT_TRELLIS25 ? group * 5 : group * bits * 2);
    for (uint32_t g = 0; g < groups; g++) {
      uint8_t *own = p + ((size_t)(r / 16) * groups + g) * record;
      put_scale(own, in, flags, r < rows ? 0.5f + random_unit() * 0.4f : 0);
      const bool zeros = head == 32 && (flags & MB_FLAG_E4M4) != 0, offsets = head == 64;
      if (offsets) put_half(own + 32 + 2 * in, r < rows ? random_unit() * 3 : 0);
      if (zeros) own[16 + in] = r < rows ? (uint8_t)random_below(256) : 0;
      float d = get_scale(own, in, flags), m = offsets ? get_half(own + 32 + 2 * in) : 0;
      float offset = offsets || bits == 8 ? 0 : (float)(1 << (bits - 1));
      if (zeros) offset = (float)own[16 + in] / (float)(1 << (8 - bits));
      bool trellis = format >= MB_FORMAT_TRELLIS2;
      uint32_t whole[128];
      if (trellis) { /* what fills the last 16 columns up may have any bits */
        for (uint32_t c = 0; c < group; c++) {
          whole[c] = r < rows ? (uint32_t)random_code(format, extreme, r) : 0;
          if (format == MB_FORMAT_TRELLIS25 && c / 4 % 2 == 1) whole[c] &= 3;
          pack_code(&t, own + head, in, c, whole[c]);
        }
        for (uint32_t c = 0; c < group && r < rows && g * group + c < columns; c++) {
          size_t i = (size_t)r * columns + g * group + c;
          t.codes[i] = (int16_t)trellis_value(format, whole, c);
          t.weights[i] = scale * d * (float)t.codes[i];
        }
        continue;
      }
      for (uint32_t c = 0; c < group; c++) {
        bool real = r < rows && g * group + c < columns;
        int16_t code = real ? random_code(format, extreme, r) : 0;
        pack_code(&t, own + head, in, c, (uint32_t)(uint8_t)code);
        if (!real) continue;
        size_t i = (size_t)r * columns + g * group + c;
        t.codes[i] = code;
        if (format == MB_FORMAT_SIGN1)
          t.weights[i] = scale * d * (code ? 1.0f : -1.0f);
        else
          t.weights[i] = offsets ? scale * (d * (float)code + m) : scale * d * ((float)code - offset);
      }
    }
  }
  return t;
}

static inline void packed_free(packed *t) {
  guarded_free(&t->blob);
  free(t->codes);
  free(t->weights);
}

#endif

#include "storage/affine8_writer.h"

#include <math.h>
#include <string.h>

#include "base/half.h"

enum { GROUPS = MB_AFFINE8_TILE / MB_AFFINE8_GROUP };

typedef struct {
  uint16_t d[MB_STRIP_ROWS];
  int8_t codes[MB_AFFINE8_GROUP / 4][MB_STRIP_ROWS][4]; /* four columns of every row together */
} record;

typedef struct {
  record records[GROUPS]; /* what goes to the sink at once */
  float values[MB_AFFINE8_TILE];
} scratch_space;

size_t mb_affine8_scratch_bytes(void) { return sizeof(scratch_space); }

static uint32_t tile_columns(uint32_t columns, uint32_t column) {
  return columns - column < MB_AFFINE8_TILE ? columns - column : MB_AFFINE8_TILE;
}

static uint32_t tile_groups(uint32_t columns) { return (columns + MB_AFFINE8_GROUP - 1) / MB_AFFINE8_GROUP; }

/* Bits of the largest magnitude, whole groups; those of infinities and NaN are larger than any number's. As integers,
 * since compilers make vector instructions of no other maximum. */
static inline int32_t largest_bits(const float *values, uint32_t count) {
  int32_t largest = 0;
  for (uint32_t i = 0; i < count; i++) {
    const int32_t bits = (int32_t)(mb_float_bits(values[i]) & 0x7fffffffu);
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

/* A tile to s->values, with zeros behind it up to a whole group. false: the stored bytes are damaged. */
static bool read_groups(scratch_space *s, mb_tile_reader reader, const void *stored, uint32_t row, uint32_t column,
                        uint32_t count, uint32_t groups) {
  if (!reader(stored, row, column, count, s->values)) return false;
  for (uint32_t i = count; i < groups * MB_AFFINE8_GROUP; i++) s->values[i] = 0;
  return true;
}

/* The largest magnitude of the matrix; negative and a reason where there is none. */
static float largest_magnitude(const mb_blob_header *target, mb_tile_reader reader, const void *stored,
                               scratch_space *s, const char **reason) {
  int32_t largest = 0;
  for (uint32_t row = 0; row < target->rows; row++)
    for (uint32_t column = 0; column < target->columns; column += MB_AFFINE8_TILE) {
      const uint32_t count = tile_columns(target->columns, column), groups = tile_groups(count);
      if (!read_groups(s, reader, stored, row, column, count, groups)) {
        *reason = "stored blob holds a code that does not exist";
        return -1;
      }
      const int32_t here = largest_bits(s->values, groups * MB_AFFINE8_GROUP);
      largest = here > largest ? here : largest;
    }
  if (largest >= 0x7f800000) {
    *reason = "stored blob holds weights that are too large";
    return -1;
  }
  return mb_bits_float((uint32_t)largest);
}

/* The power of two that brings `largest` into [2^14, 2^15); never subnormal; 1 for 0. */
static float power_of_two_scale(float largest) {
  if (largest == 0) return 1;
  int exponent;
  frexpf(largest, &exponent);
  return ldexpf(1, exponent - 15 > -126 ? exponent - 15 : -126);
}

/* One row's weights of a group, times `inverse`, to its place in the record. */
static void quantise_group(record *out, uint32_t r, const float *weights, float inverse) {
  float w[MB_AFFINE8_GROUP];
  for (uint32_t i = 0; i < MB_AFFINE8_GROUP; i++) w[i] = weights[i] * inverse;
  out->d[r] = mb_f32_to_f16(mb_bits_float((uint32_t)largest_bits(w, MB_AFFINE8_GROUP)) / 127.0f);
  const float step = mb_f16_to_f32(out->d[r]), steps = step != 0 ? 1.0f / step : 0;
  int32_t wide[MB_AFFINE8_GROUP];
  for (uint32_t i = 0; i < MB_AFFINE8_GROUP; i++) {
    /* Adding 1.5 * 2^23 leaves no bits behind the point: rounded to nearest even. Then clipped, as whole numbers. */
    const float code = (w[i] * steps + 12582912.0f) - 12582912.0f;
    wide[i] = (int32_t)code;
  }
  int8_t codes[MB_AFFINE8_GROUP];
  for (uint32_t i = 0; i < MB_AFFINE8_GROUP; i++) {
    const int32_t above = wide[i] < -127 ? -127 : wide[i];
    codes[i] = (int8_t)(above > 127 ? 127 : above);
  }
  for (uint32_t k = 0; k < MB_AFFINE8_GROUP / 4; k++) memcpy(out->codes[k][r], codes + 4 * k, 4);
}

bool mb_affine8_write(const mb_storage_plan *plan, mb_tile_reader reader, const void *stored, void *scratch,
                      mb_sink sink, void *context, const char **reason) {
  scratch_space *s = scratch;
  mb_blob_header target = plan->target;
  const float largest = largest_magnitude(&target, reader, stored, s, reason);
  if (largest < 0) return false;
  target.scale = power_of_two_scale(largest);
  const float inverse = 1.0f / target.scale; /* exact */
  if (!sink(context, &target, sizeof target)) return false;
  for (uint32_t first = 0; first < target.rows; first += MB_STRIP_ROWS) {
    const uint32_t rows = target.rows - first < MB_STRIP_ROWS ? target.rows - first : MB_STRIP_ROWS;
    for (uint32_t column = 0; column < target.columns; column += MB_AFFINE8_TILE) {
      const uint32_t count = tile_columns(target.columns, column), groups = tile_groups(count);
      memset(s->records, 0, groups * sizeof(record));
      for (uint32_t r = 0; r < rows; r++) {
        /* Not damaged, since it was read before. */
        if (!read_groups(s, reader, stored, first + r, column, count, groups)) return false;
        for (uint32_t g = 0; g < groups; g++)
          quantise_group(&s->records[g], r, s->values + g * MB_AFFINE8_GROUP, inverse);
      }
      if (!sink(context, s->records, groups * sizeof(record))) return false;
    }
  }
  return true;
}

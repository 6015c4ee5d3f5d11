/* Every kernel table against the scalar one, bit for bit, and the scalar one against straightforward arithmetic.
 *
 * Exit code 0 and one line when all agree. Built with the kernels of one target; runs natively and under qemu. */
#include <math.h>

#include "base/half.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "pack.h"
#include "packed/layout.h"
#include "support.h"

#define MOST 64 /* vectors */
static const uint32_t counts[] = {1, 2, 3, 4, 5, 7, 32, 33, MOST, 70};
#define LAST_COUNT 70
#define LENGTH(a) (sizeof(a) / sizeof *(a))

/* ---- activations ---- */

typedef struct {
  mb_activations x;
  guarded values, codes, scales, sums, panel;
} inputs;

static inputs inputs_new(uint32_t columns, uint32_t group, uint32_t count) {
  inputs v = {
      .x = {.columns = columns, .padded = mb_round_up(columns, MB_COLUMN_PADDING), .group = group, .count = count}};
  mb_activations *x = &v.x;
  x->groups = group != 0 ? x->padded / group : 1;
  v.values = guarded_new((size_t)count * x->padded * 4);
  v.codes = guarded_new((size_t)count * x->padded);
  v.scales = guarded_new((size_t)count * x->groups * 4);
  v.sums = guarded_new((size_t)count * x->groups * 4);
  v.panel = guarded_new((size_t)mb_round_up(count, 4) * x->padded);
  memset(v.panel.at, 0x55, v.panel.bytes);
  memset(v.codes.at, 0x55, v.codes.bytes);
  x->values = v.values.at;
  x->codes = v.codes.at;
  x->scales = v.scales.at;
  x->sums = v.sums.at;
  x->panel = v.panel.at;
  return v;
}

static void inputs_free(inputs *v) {
  guarded_free(&v->values);
  guarded_free(&v->codes);
  guarded_free(&v->scales);
  guarded_free(&v->sums);
  guarded_free(&v->panel);
}

/* The first two vectors are long runs of the largest codes, the third is zero, the others random. */
static void fill_values(float *to, uint32_t columns, uint32_t padded, uint32_t count) {
  for (uint32_t n = 0; n < count; n++)
    for (uint32_t c = 0; c < columns; c++) {
      float value = random_unit() * random_unit() * 4;
      if (n == 0) value = 3.0f;
      if (n == 1) value = c < columns / 2 ? -3.0f : 3.0f;
      if (n == 2) value = 0;
      to[(size_t)n * padded + c] = value;
    }
}

static void quantise_in_parts(const mb_kernels *k, mb_activations *x) {
  uint32_t middle = x->count / 3;
  if (middle > 0) k->quantise(x, 0, middle);
  k->quantise(x, middle, x->count);
}

static void check_quantised(const mb_activations *x) {
  uint32_t width = x->group != 0 ? x->group : x->padded, rounded = mb_round_up(x->count, 4);
  for (uint32_t n = 0; n < x->count; n++)
    for (uint32_t g = 0; g < x->groups; g++) {
      const float *v = x->values + (size_t)n * x->padded + g * width;
      const int8_t *q = x->codes + (size_t)n * x->padded + g * width;
      float a = 0;
      int32_t sum = 0;
      bool ok = true, finite = true;
      for (uint32_t c = 0; c < width; c++) {
        a = fabsf(v[c]) > a ? fabsf(v[c]) : a;
        finite = finite && isfinite(v[c]);
      }
      bool zero = !finite || a < 0x1p-100f;
      for (uint32_t c = 0; c < width; c++) {
        ok = ok && q[c] == (zero ? 0 : (int)lrintf(v[c] * (127.0f / a))) && q[c] >= -127;
        sum += q[c];
      }
      size_t at = (size_t)n * x->groups + g;
      const float scale = x->scales[at];
      check(ok && (finite ? scale == (zero ? 0 : a / 127.0f) : isnan(scale)) && x->sums[at] == sum,
            "scalar quantise: columns %u group %u vector %u part %u", x->columns, x->group, n, g);
    }
  bool ok = true;
  for (uint32_t c = 0; x->count > 1 && c < x->padded; c++)
    for (uint32_t n = 0; n < rounded; n++) {
      int8_t in_panel = x->panel[((size_t)(c / 4) * rounded + n) * 4 + c % 4];
      ok = ok && in_panel == (n < x->count ? x->codes[(size_t)n * x->padded + c] : 0);
    }
  check(ok, "panel: columns %u count %u", x->columns, x->count);
}

static void test_quantise(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t columns[] = {1, 31, 128, 172, 640, 1537};
  static const uint32_t groups[] = {0, 32, 64, 128};
  for (size_t i = 0; i < LENGTH(columns); i++)
    for (size_t g = 0; g < LENGTH(groups); g++)
      for (size_t c = 0; c < LENGTH(counts); c++) {
        if (columns[i] > 640 && counts[c] > 33) continue;
        inputs v = inputs_new(columns[i], groups[g], counts[c]);
        float *values = v.values.at;
        fill_values(values, columns[i], v.x.padded, counts[c]);
        for (uint32_t n = 3; n < counts[c]; n++) { /* ties, tiny, huge and broken values */
          float *row = values + (size_t)n * v.x.padded;
          if (n == 3)
            for (uint32_t j = 0; j < columns[i]; j++)
              row[j] = j == 0 ? 127.0f : (float)(int)(random_below(254)) - 126.5f;
          if (n == 4)
            for (uint32_t j = 0; j < columns[i]; j++) row[j] *= 0x1p-102f;
          if (n == 5) row[random_below(columns[i])] = 3e38f;
          if (n == 6) row[random_below(columns[i])] = INFINITY;
          if (n == 7) row[random_below(columns[i])] = NAN;
          if (n == 8) row[random_below(columns[i])] = -INFINITY;
        }
        quantise_in_parts(scalar, &v.x);
        check_quantised(&v.x);
        for (int t = 0; tables[t] != NULL; t++) {
          inputs o = inputs_new(columns[i], groups[g], counts[c]);
          memcpy(o.values.at, v.values.at, v.values.bytes);
          quantise_in_parts(tables[t], &o.x);
          check(memcmp(o.codes.at, v.codes.at, v.codes.bytes) == 0 &&
                    memcmp(o.panel.at, v.panel.at, v.panel.bytes) == 0 &&
                    memcmp(o.scales.at, v.scales.at, v.scales.bytes) == 0 &&
                    memcmp(o.sums.at, v.sums.at, v.sums.bytes) == 0,
                "%s quantise: columns %u group %u count %u", tables[t]->name, columns[i], groups[g], counts[c]);
          inputs_free(&o);
        }
        inputs_free(&v);
      }
}

/* ---- matrix products ---- */

static const char *describe(const packed *t) {
  static char text[128];
  snprintf(text, sizeof text, "format %u, %u x %u, group %u, flags %u", t->format, t->rows, t->columns, t->group,
           t->flags);
  return text;
}

static void check_decoded(const packed *t, const mb_matrix *w) {
  float *row = malloc(t->columns * sizeof *row);
  for (uint32_t r = 0; r < t->rows; r++) {
    mb_decode_row(w, r, row);
    check(memcmp(row, t->weights + (size_t)r * t->columns, t->columns * sizeof *row) == 0, "decode_row %u: %s", r,
          describe(t));
  }
  free(row);
}

/* The scalar results against double arithmetic on the decoded weights; ternary exactly. */
static void check_scalar(const packed *t, const mb_matrix *w, const mb_activations *x, const float *y, size_t stride) {
  const bool ternary = t->format == MB_FORMAT_TERNARY2 || t->format == MB_FORMAT_SPARSE_TERNARY;
  for (uint32_t n = 0; n < x->count; n += n < 4 ? 1 : 13)
    for (uint32_t r = 0; r < t->rows; r++) {
      double sum = 0, size = 0;
      int32_t exact = 0;
      for (uint32_t c = 0; c < t->columns; c++) {
        size_t at = (size_t)n * x->padded + c, part = (size_t)n * x->groups + (x->group != 0 ? c / x->group : 0);
        bool dense = t->format == MB_FORMAT_F32 || t->format == MB_FORMAT_BF16;
        double value = dense ? x->values[at] : (double)x->codes[at] * x->scales[part];
        double product = t->weights[(size_t)r * t->columns + c] * value;
        sum += product;
        size += fabs(product);
        if (ternary) exact += (t->codes[(size_t)r * t->columns + c] - 1) * x->codes[at];
      }
      float got = y[n * stride + r];
      if (ternary) {
        float expected = (float)exact * (w->row_scales != NULL ? w->row_scales[r] : w->scale) * x->scales[n];
        check(got == expected, "scalar ternary row %u vector %u: %s", r, n, describe(t));
      }
      /* An asymmetric weight's parts d * code and m may cancel: they are rounded relative to their own size. */
      double slack = t->flags & MB_FLAG_ASYMMETRIC && mb_is_affine(t->format) ? 30 * size + 1e-3 : size;
      check(fabs(got - sum) <= 2e-6 * slack + 1e-30, "scalar row %u vector %u: %g for %g: %s", r, n, got, sum,
            describe(t));
    }
}

/* In three ranges of rows; what lies between the results must stay untouched. */
static void multiply_in_parts(const mb_kernels *k, const mb_matrix *w, const mb_activations *x, float *y,
                              size_t stride) {
  uint32_t end = mb_round_up(w->rows, 16), first = end / 48 * 16, second = mb_round_up(end * 3 / 4, 16);
  if (second < end) k->multiply(w, x, y, stride, second, end);
  if (first > 0) k->multiply(w, x, y, stride, 0, first);
  if (first < second) k->multiply(w, x, y, stride, first, second);
}

/* First vector and number of them. Decoding sees random ones too: a constant one hides columns and groups mixed up. */
static const uint32_t parts[][2] = {{0, 1}, {1, 1}, {2, 1}, {3, 1},  {4, 1},  {0, 2},    {0, 3},
                                    {0, 4}, {1, 5}, {0, 7}, {0, 32}, {1, 33}, {0, MOST}, {0, LAST_COUNT}};

/* The scalar table takes vectors one by one: beyond so many there is nothing new to see, and under emulation it is two
 * fifths of the time. */
enum { SCALAR_COUNT = 7 };

/* One broken value among three vectors: every product of its vector is NaN, those of the others are what they were. */
static void test_overflow_stays_visible(const mb_kernels *k, const packed *t, const mb_matrix *w) {
  static const float broken[] = {INFINITY, -INFINITY, NAN};
  const size_t stride = t->rows;
  inputs v = inputs_new(t->columns, t->group, 3);
  guarded whole = guarded_new(3 * stride * 4), y = guarded_new(3 * stride * 4);
  float *values = v.values.at, *got = y.at;
  fill_values(values, t->columns, v.x.padded, 3);
  k->quantise(&v.x, 0, 3);
  k->multiply(w, &v.x, whole.at, stride, 0, mb_round_up(t->rows, 16));
  for (size_t i = 0; i < LENGTH(broken); i++) {
    values[v.x.padded + random_below(t->columns)] = broken[i];
    k->quantise(&v.x, 0, 3);
    k->multiply(w, &v.x, got, stride, 0, mb_round_up(t->rows, 16));
    bool ok = memcmp(got, whole.at, stride * 4) == 0 &&
              memcmp(got + 2 * stride, (const float *)whole.at + 2 * stride, stride * 4) == 0;
    /* float weights multiply the value itself: infinity times a weight, or NaN where that is 0 */
    for (uint32_t r = 0; r < t->rows; r++)
      ok = ok && (v.x.group == 0 && mb_format_bits(t->format) == 0 && t->format != MB_FORMAT_SPARSE_TERNARY
                      ? !isfinite(got[stride + r])
                      : isnan(got[stride + r]));
    check(ok, "%s multiply of a broken vector: %s", k->name, describe(t));
  }
  guarded_free(&y);
  guarded_free(&whole);
  inputs_free(&v);
}

static void test_view(const mb_kernels *scalar, const mb_kernels *const *tables, const packed *t, const mb_matrix *w) {
  check_decoded(t, w);
  size_t stride = t->rows + 3;
  inputs all = inputs_new(t->columns, t->group, LAST_COUNT);
  fill_values(all.values.at, t->columns, all.x.padded, LAST_COUNT);
  scalar->quantise(&all.x, 0, LAST_COUNT);
  guarded expected = guarded_new(((LAST_COUNT - 1) * stride + t->rows) * 4);
  memset(expected.at, 0x7b, expected.bytes);
  scalar->multiply(w, &all.x, expected.at, stride, 0, t->rows);
  check_scalar(t, w, &all.x, expected.at, stride);
  for (size_t c = 0; c < LENGTH(parts); c++) {
    const uint32_t first = parts[c][0], count = parts[c][1];
    inputs v = inputs_new(t->columns, t->group, count);
    guarded y = guarded_new(((count - 1) * stride + t->rows) * 4);
    memcpy(v.values.at, (const float *)all.values.at + (size_t)first * v.x.padded, v.values.bytes);
    scalar->quantise(&v.x, 0, count);
    for (int i = 0; tables[i] != NULL; i++) {
      if (tables[i] == scalar && count > SCALAR_COUNT) continue;
      memset(y.at, 0x7b, y.bytes);
      multiply_in_parts(tables[i], w, &v.x, y.at, stride);
      check(memcmp(y.at, (const float *)expected.at + first * stride, y.bytes) == 0,
            "%s multiply, vectors %u, first %u: %s", tables[i]->name, count, first, describe(t));
    }
    guarded_free(&y);
    inputs_free(&v);
  }
  guarded_free(&expected);
  inputs_free(&all);
  for (int i = 0; tables[i] != NULL; i++) test_overflow_stays_visible(tables[i], t, w);
}

static void test_matrix(const mb_kernels *scalar, const mb_kernels *const *tables, const packed *t) {
  mb_matrix w;
  const char *reason;
  if (check(mb_matrix_view(t->blob.at, t->blob.bytes, &w, &reason), "view: %s", describe(t)))
    test_view(scalar, tables, t, &w);
}

/* Without flags, with offsets or row scales or, of a trellis, scales of one byte; affine ones with zero points. */
static uint32_t kinds_of_scales(uint32_t format) {
  const bool bytes = mb_payload_bytes(format, 1, 32, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4) != 0;
  return bytes ? 3 : mb_format_bits(format) > 1 ? 2 : 1;
}

static void test_multiply(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t formats[] = {MB_FORMAT_F32,      MB_FORMAT_BF16,    MB_FORMAT_TERNARY2, MB_FORMAT_AFFINE2,
                                     MB_FORMAT_AFFINE3,  MB_FORMAT_AFFINE4, MB_FORMAT_AFFINE8,  MB_FORMAT_AFFINE5,
                                     MB_FORMAT_AFFINE6,  MB_FORMAT_SIGN1,   MB_FORMAT_TRELLIS2, MB_FORMAT_TRELLIS3,
                                     MB_FORMAT_TRELLIS25};
  static const uint32_t shapes[][2] = {{1, 1},   {1, 172},  {37, 1},    {16, 128}, {32, 256},
                                       {17, 31}, {83, 131}, {300, 172}, {19, 1031}};
  static const uint32_t groups[] = {32, 64, 128};
  for (size_t s = 0; s < LENGTH(shapes); s++)
    for (size_t f = 0; f < LENGTH(formats); f++)
      for (size_t g = 0; g < (mb_is_affine(formats[f]) ? LENGTH(groups) : 1); g++)
        for (uint32_t flag = 0; flag < kinds_of_scales(formats[f]); flag++)
          for (int extreme = 0; extreme < (shapes[s][0] < 40 ? 2 : 1); extreme++) {
            const uint32_t format = formats[f];
            if (format == MB_FORMAT_TRELLIS25 && groups[g] == 32) continue; /* it has none */
            uint32_t set = format >= MB_FORMAT_TRELLIS2 ? MB_FLAG_E4M4
                           : mb_is_affine(format)       ? MB_FLAG_ASYMMETRIC
                                                        : MB_FLAG_ROW_SCALES;
            if (flag == 2) set = MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4;
            if (extreme && flag && set == MB_FLAG_E4M4) continue; /* how scales are stored moves no code */
            packed t = pack_random(format, shapes[s][0], shapes[s][1], mb_is_affine(format) ? groups[g] : 0,
                                   flag ? set : 0, extreme);
            test_matrix(scalar, tables, &t);
            packed_free(&t);
          }
}

/* Signs are decoded in tiles of columns and of rows. */
static void test_sign_tiles(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t shapes[][3] = {{1050, 40, 32}, {19, 4200, 128}, {19, 2100, 64}, {3, 2048, 32}};
  for (size_t s = 0; s < LENGTH(shapes); s++)
    for (int extreme = 0; extreme < 2; extreme++) {
      packed t = pack_random(MB_FORMAT_SIGN1, shapes[s][0], shapes[s][1], shapes[s][2], 0, extreme);
      test_matrix(scalar, tables, &t);
      packed_free(&t);
    }
}

/* ---- formats ---- */

/* Why such a blob is not one; NULL: it is. */
static const char *fault_of(const mb_blob_header *h, size_t available) {
  static _Alignas(64) uint8_t blob[4096];
  memcpy(blob, h, sizeof *h);
  mb_matrix w;
  const char *reason = NULL;
  bool ok = mb_matrix_view(blob, available, &w, &reason);
  check(ok == (reason == NULL), "view: a reason exactly when it fails");
  return reason;
}

static bool view_of(const mb_blob_header *h, size_t available) { return fault_of(h, available) == NULL; }

static void test_formats(void) {
  const mb_blob_header good = {.magic = {'M', 'B', 'W', 'B'},
                               .version = 1,
                               .format = MB_FORMAT_AFFINE4,
                               .rows = 5,
                               .columns = 33,
                               .group = 32,
                               .flags = MB_FLAG_ASYMMETRIC,
                               .scale = 0.5f,
                               .payload_bytes = 2 * (64 + 256)};
  const size_t size = 64 + 640;
  check(view_of(&good, size) && view_of(&good, size + 5), "a good header");
  check(!view_of(&good, size - 1) && !view_of(&good, 64) && !view_of(&good, 63) && !view_of(&good, 0), "cut off");
#define BROKEN(change)                               \
  do {                                               \
    mb_blob_header h = good;                         \
    h.change;                                        \
    check(!view_of(&h, 4096), "accepted: " #change); \
  } while (0)
  BROKEN(magic[3] = 'b');
  BROKEN(version = 2);
  BROKEN(format = 0);
  BROKEN(format = 8);
  for (uint16_t withdrawn = 14; withdrawn <= 15; withdrawn++) {
    mb_blob_header h = good;
    h.format = withdrawn;
    const char *reason = fault_of(&h, 4096);
    check(reason != NULL && strstr(reason, "earlier version: build the bundle again") != NULL, "withdrawn format");
  }
  BROKEN(rows = 0);
  BROKEN(rows = 17);
  BROKEN(rows = 0xffffffff);
  BROKEN(columns = 0);
  BROKEN(columns = 65);
  BROKEN(columns = 0xffffffff);
  BROKEN(group = 0);
  BROKEN(group = 16);
  BROKEN(group = 64);
  BROKEN(flags = 0);
  BROKEN(flags = MB_FLAG_ROW_SCALES);
  BROKEN(flags = MB_FLAG_ASYMMETRIC | 4);
  BROKEN(scale = NAN);
  BROKEN(scale = INFINITY);
  BROKEN(reserved0 = 1);
  BROKEN(reserved1[23] = 1);
  BROKEN(payload_bytes = 641);
  const uint32_t big = 1u << 28;
  check(mb_payload_bytes(MB_FORMAT_F32, big, big, 0, 0) == (uint64_t)1 << 58, "largest float32");
  check(mb_payload_bytes(MB_FORMAT_AFFINE8, big, big, 32, 1) == ((uint64_t)1 << 56) + ((uint64_t)1 << 53),
        "largest affine");
  check(mb_payload_bytes(MB_FORMAT_TERNARY2, 1, 1, 0, MB_FLAG_ROW_SCALES) == 64 + 64, "smallest ternary");
  check(mb_payload_bytes(MB_FORMAT_AFFINE5, 17, 33, 32, 0) == 4 * (32 + 320) &&
            mb_payload_bytes(MB_FORMAT_AFFINE6, 17, 33, 32, MB_FLAG_ASYMMETRIC) == 4 * (64 + 384) &&
            mb_payload_bytes(MB_FORMAT_SIGN1, 17, 129, 128, 0) == 4 * (32 + 256) &&
            mb_payload_bytes(MB_FORMAT_SIGN1, 1, 1, 32, MB_FLAG_ASYMMETRIC) == 0,
        "5 and 6 bits, signs");
  check(mb_payload_bytes(MB_FORMAT_TRELLIS2, 17, 129, 128, 0) == 4 * (32 + 512) &&
            mb_payload_bytes(MB_FORMAT_TRELLIS3, 17, 33, 32, 0) == 4 * (32 + 192) &&
            mb_payload_bytes(MB_FORMAT_TRELLIS2, 17, 129, 64, MB_FLAG_E4M4) == 6 * (16 + 256) &&
            mb_payload_bytes(MB_FORMAT_TRELLIS3, 16, 64, 64, MB_FLAG_E4M4) == 16 + 384 &&
            mb_payload_bytes(MB_FORMAT_SIGN1, 1, 1, 32, MB_FLAG_E4M4) == 0 &&
            mb_payload_bytes(MB_FORMAT_AFFINE4, 1, 33, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4) == 2 * (32 + 256) &&
            mb_payload_bytes(MB_FORMAT_AFFINE4, 1, 1, 32, MB_FLAG_E4M4) == 0 &&
            mb_payload_bytes(MB_FORMAT_AFFINE2, 1, 1, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4) == 0 &&
            mb_payload_bytes(MB_FORMAT_AFFINE8, 1, 1, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4) == 0 &&
            mb_payload_bytes(MB_FORMAT_TRELLIS2, 1, 1, 32, MB_FLAG_E4M4 | MB_FLAG_ASYMMETRIC) == 0 &&
            mb_payload_bytes(MB_FORMAT_TRELLIS2, 1, 1, 32, MB_FLAG_ASYMMETRIC) == 0 &&
            mb_payload_bytes(MB_FORMAT_TRELLIS3, 1, 1, 16, 0) == 0 &&
            mb_payload_bytes(MB_FORMAT_TRELLIS25, 17, 129, 64, MB_FLAG_E4M4) == 6 * (16 + 320) &&
            mb_payload_bytes(MB_FORMAT_TRELLIS25, 1, 1, 128, 0) == 32 + 640 &&
            mb_payload_bytes(MB_FORMAT_TRELLIS25, 1, 1, 32, 0) == 0 && mb_payload_bytes(14, 1, 1, 32, 0) == 0 &&
            mb_payload_bytes(15, 1, 1, 32, 0) == 0,
        "trellis codes");
  check(mb_payload_bytes(MB_FORMAT_TERNARY2, 1, 1, 32, 0) == 0 && mb_payload_bytes(MB_FORMAT_BF16, 1, 1, 0, 1) == 0 &&
            mb_payload_bytes(MB_FORMAT_BF16, big + 1, 1, 0, 0) == 0 && mb_payload_bytes(99, 1, 1, 0, 0) == 0,
        "invalid combinations");
  for (uint32_t h = 0; h < 65536; h++) {
    float f = mb_f16_to_f32((uint16_t)h), exact = ldexpf((float)(h & 0x3ff), -24);
    if ((h >> 10 & 31) != 0) exact = ldexpf((float)(0x400 | (h & 0x3ff)), (int)(h >> 10 & 31) - 25);
    if (h & 0x8000) exact = -exact;
    bool finite = (h & 0x7c00) != 0x7c00;
    check(finite ? f == exact && mb_f32_to_f16(f) == h : !isfinite(f), "fp16 %04x", h);
  }
  check(mb_f32_to_f16(65519.0f) == 0x7bff && mb_f32_to_f16(65520.0f) == 0x7c00 && mb_f32_to_f16(1e30f) == 0x7c00 &&
            mb_f32_to_f16(2049.0f) == 0x6800 && mb_f32_to_f16(2051.0f) == 0x6802 && mb_f32_to_f16(0x1p-25f) == 0 &&
            mb_f32_to_f16(0x1.8p-24f) == 2 && mb_f32_to_f16(-0x1.000002p-25f) == 0x8001,
        "rounding to fp16");
}

#include "test_packed_sparse.h"
#include "test_packed_vector.h"
#include "test_vectors.h"

int main(void) {
  const mb_kernels *scalar = mb_kernels_select("scalar"), *tables[8] = {0};
  const char *const *names = mb_kernels_available();
  int n = 0;
  for (; names[n] != NULL; n++) {
    tables[n] = mb_kernels_select(names[n]);
    check(tables[n] != NULL && strcmp(tables[n]->name, names[n]) == 0, "table %s", names[n]);
    printf("%s ", names[n]);
  }
#if defined(MB_HAVE_AVX2)
  /* Of two tables of a name one was selected: the other one too. */
  const mb_kernels *twins[2][2] = {{&mb_avx2_kernels, &mb_avx2_ahead_kernels},
                                   {&mb_avx512_kernels, &mb_avx512_ahead_kernels}};
  for (int i = 0; i < 2; i++) {
    const mb_kernels *selected = mb_kernels_select(twins[i][0]->name);
    if (selected != NULL) tables[n++] = twins[i][selected == twins[i][0]];
  }
#endif
  check(mb_kernels_select(NULL) == tables[0] && mb_kernels_select("auto") == tables[0], "the best is the first");
  check(mb_kernels_select("sse") == NULL, "an unknown name");
  if (scalar == NULL || failures != 0) return 1;
  test_formats();
  test_quantise(scalar, tables);
  test_multiply(scalar, tables);
  test_sign_tiles(scalar, tables);
  test_sparse(scalar, tables);
  test_packed_vectors(scalar, tables);
  test_attention(scalar, tables);
  test_attention_groups(scalar, tables);
  test_functions(scalar, tables);
  test_kv_codes(scalar, tables);
  test_turn(scalar, tables);
  test_coarsen(scalar, tables);
  printf("kernels: %ld checks, %ld failures\n", checks, failures);
  return failures != 0;
}

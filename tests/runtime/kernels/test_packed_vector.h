/* MB_FORMAT_VECTOR: packed from the text of mobile_bundle/packed_formats.h, every table against the scalar one. */
#ifndef MB_TEST_PACKED_VECTOR_H
#define MB_TEST_PACKED_VECTOR_H

#include "pack.h"

typedef struct {
  uint32_t length, index_bits, residual_bits, outliers;
  bool shared;
} vector_shape;

static uint32_t vector_flags(const vector_shape *s) {
  return s->length << 4 | s->index_bits << 8 | s->residual_bits << 13 | s->outliers << 18 |
         (s->shared ? MB_FLAG_SHARED_CODEBOOK : 0);
}

/* `bits` bits at bit `at` of `p`, one by one. */
static void put_field(uint8_t *p, size_t at, uint32_t bits, uint32_t value) {
  for (uint32_t i = 0; i < bits; i++, at++) put_bits(p + at / 8, at % 8, value >> i & 1);
}

static size_t next_section(size_t at) { return (at + 63) / 64 * 64; }

/* Entries of `length` codes from -most to most; extreme: alternating largest and smallest. */
static void random_book(int8_t *book, uint32_t bits, uint32_t length, size_t stride, int most, bool extreme) {
  for (size_t i = 0; i < (size_t)1 << bits; i++)
    for (uint32_t j = 0; j < length; j++)
      book[i * stride + j] =
          (int8_t)(extreme ? (i % 2 ? -most : most) : (int)random_below((uint32_t)(2 * most + 1)) - most);
}

static void random_indices(uint8_t *p, uint32_t *index, uint32_t rows, uint32_t vectors, uint32_t bits) {
  const size_t row_bytes = ((size_t)vectors * bits + 7) / 8;
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t k = 0; k < vectors; k++) {
      const uint32_t value = random_below(1u << bits);
      index[(size_t)r * vectors + k] = value;
      put_field(p + r * row_bytes, (size_t)k * bits, bits, value);
    }
}

/* `books`: the shared codebooks of a shape that has them, to be freed; else empty. */
static packed pack_vectors(const vector_shape *s, uint32_t rows, uint32_t columns, bool extreme, guarded *books) {
  const uint32_t flags = vector_flags(s), group = s->length == 4 || s->length == 8 ? 128 : 0;
  const uint32_t vectors = (columns + s->length - 1) / s->length;
  const size_t stride = s->length == 4 ? 4 : s->length <= 8 ? 8 : 16, entries = (size_t)1 << s->index_bits;
  const size_t book_bytes = (entries + (s->residual_bits > 0 ? (size_t)1 << s->residual_bits : 0)) * stride;
  packed t = {.format = MB_FORMAT_VECTOR, .rows = rows, .columns = columns, .group = group, .flags = flags};
  const size_t scales = next_section(s->shared ? 0 : book_bytes), outliers = next_section(scales + 2 * (size_t)rows);
  const size_t values = outliers + 4 * (size_t)s->outliers, indices = next_section(values + (size_t)s->outliers * rows);
  size_t residual = next_section(indices + ((size_t)vectors * s->index_bits + 7) / 8 * rows);
  size_t end = indices + ((size_t)vectors * s->index_bits + 7) / 8 * rows;
  if (s->residual_bits > 0) end = residual + ((size_t)vectors * s->residual_bits + 7) / 8 * rows;
  end += 16;
  check(mb_payload_bytes(MB_FORMAT_VECTOR, rows, columns, group, flags) == end, "payload of flags %x", flags);

  mb_blob_header h = {.magic = {'M', 'B', 'W', 'B'},
                      .version = MB_BLOB_VERSION,
                      .format = MB_FORMAT_VECTOR,
                      .rows = rows,
                      .columns = columns,
                      .group = group,
                      .flags = flags,
                      .scale = 0x1p-6f,
                      .payload_bytes = end};
  t.blob = guarded_new(sizeof h + end);
  memcpy(t.blob.at, &h, sizeof h);
  uint8_t *p = (uint8_t *)t.blob.at + sizeof h;
  *books = guarded_new(s->shared ? book_bytes : 0);
  int8_t *book = s->shared ? books->at : (int8_t *)p, *residual_book = book + entries * stride;
  /* Both together stay in [-127, 127], as writers promise. */
  random_book(book, s->index_bits, s->length, stride, s->residual_bits > 0 ? 87 : 127, extreme);
  if (s->residual_bits > 0) random_book(residual_book, s->residual_bits, s->length, stride, 40, extreme);
  uint32_t *index = malloc(2 * (size_t)rows * vectors * sizeof *index), *second = index + (size_t)rows * vectors;
  random_indices(p + indices, index, rows, vectors, s->index_bits);
  if (s->residual_bits > 0) random_indices(p + residual, second, rows, vectors, s->residual_bits);

  t.codes = malloc((size_t)rows * columns * sizeof *t.codes);
  t.weights = malloc((size_t)rows * columns * sizeof *t.weights);
  for (size_t i = 0; i < (size_t)rows * columns; i++) {
    const size_t vector = i / columns * vectors + i % columns / s->length, j = i % columns % s->length;
    t.codes[i] = book[index[vector] * stride + j];
    if (s->residual_bits > 0) t.codes[i] = (int16_t)(t.codes[i] + residual_book[second[vector] * stride + j]);
  }
  for (uint32_t n = 0; n < s->outliers; n++) {
    const uint32_t column = (uint32_t)((uint64_t)n * columns / s->outliers); /* the first column is one */
    memcpy(p + outliers + 4 * n, &column, 4);
    for (uint32_t r = 0; r < rows; r++) { /* any code at all may become any other: the sum wraps around */
      int16_t *code = &t.codes[(size_t)r * columns + column];
      const int16_t wanted = (int16_t)((int)random_below(255) - 127);
      p[values + (size_t)r * s->outliers + n] = (uint8_t)(wanted - *code);
      *code = wanted;
    }
  }
  for (uint32_t r = 0; r < rows; r++) {
    put_half(p + scales + 2 * r, 0.01f * (1.0f + random_unit() * 0.5f));
    const float d = get_half(p + scales + 2 * r);
    for (uint32_t c = 0; c < columns; c++)
      t.weights[(size_t)r * columns + c] = h.scale * (d * (float)t.codes[(size_t)r * columns + c]);
  }
  free(index);
  return t;
}

static void test_vector_shape(const mb_kernels *scalar, const mb_kernels *const *tables, const vector_shape *s,
                              uint32_t rows, uint32_t columns, bool extreme) {
  guarded books;
  packed t = pack_vectors(s, rows, columns, extreme, &books);
  mb_matrix w;
  const char *reason;
  if (check(mb_matrix_view(t.blob.at, t.blob.bytes, &w, &reason), "view: %s", describe(&t))) {
    if (s->shared) mb_vector_bind(&w, books.at);
    test_view(scalar, tables, &t, &w);
  }
  packed_free(&t);
  guarded_free(&books);
}

static void test_packed_vectors(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t shapes[][2] = {{1, 1}, {1, 172}, {37, 1}, {16, 128}, {17, 31}, {33, 131}, {5, 1031}};
  static const vector_shape kinds[] = {
      {4, 8, 0, 0, false},  {4, 8, 0, 0, true},     {4, 12, 0, 0, false},  {4, 16, 0, 0, false}, {4, 8, 8, 0, false},
      {4, 9, 11, 0, false}, {4, 8, 0, 1, false},    {4, 13, 8, 3, true},   {8, 16, 0, 0, false}, {8, 8, 0, 0, false},
      {8, 15, 0, 0, true},  {8, 12, 10, 0, false},  {8, 11, 0, 4, false},  {8, 14, 9, 2, false}, {5, 10, 0, 0, false},
      {6, 12, 0, 0, false}, {6, 12, 8, 0, true},    {6, 12, 0, 5, false},  {7, 13, 0, 0, false}, {9, 9, 0, 0, false},
      {10, 14, 0, 1, true}, {11, 11, 12, 2, false}, {12, 16, 0, 0, false}, {12, 8, 9, 0, false}};
  for (size_t k = 0; k < LENGTH(kinds); k++)
    for (size_t i = 0; i < LENGTH(shapes); i++) {
      if (kinds[k].index_bits > 12 && i < 4) continue; /* large codebooks take long to make, on an emulated processor */
      vector_shape s = kinds[k];
      if (s.outliers > shapes[i][1]) s.outliers = shapes[i][1];
      test_vector_shape(scalar, tables, &s, shapes[i][0], shapes[i][1], i == 3 || (i == 4 && k % 2 == 0));
    }
}

#endif

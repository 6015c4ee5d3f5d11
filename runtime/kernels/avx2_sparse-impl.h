/* MB_FORMAT_SPARSE_TERNARY, AVX2.
 *
 * Decoding looks sums up instead of multiplying. A group of four activations has 16 sums, one per nibble; a look-up
 * answers for 32 rows. How the sums are held and negated is said in sparse_digits.h. The tables of a tile of columns
 * stay in the first-level cache and are built anew by every call, which costs as much as some 20 rows.
 *
 * Prefill unpacks tiles to byte codes t + 1 and multiplies them as avx2_matmul-impl.h does ternary ones.
 *
 * A fragment of avx2.c. It defines multiply_sparse(). */
#ifndef MB_KERNELS_AVX2_SPARSE_IMPL_H
#define MB_KERNELS_AVX2_SPARSE_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/avx2_matmul-impl.h"
#include "kernels/sparse_digits.h"
#include "packed/sparse_layout.h"

#define SPARSE_ROWS 1024 /* whose sums are kept while the tiles of columns pass */

/* ---- decoding: one vector ---- */

/* A word of 16 bits in a shuffle's mask. */
#define WORD(i) (int16_t)(0x0202 * (i) + 0x0100)
/* Where the nibbles 0..7 of a lane find a term: the four words are those for the zero at position 0..3, and `group`
 * says which of the lane's two groups is meant. Nibbles 8..15 differ in the sign of the third term alone. */
#define TERM(group, z0, z1, z2, z3)                                                                           \
  _mm256_broadcastsi128_si256(_mm_setr_epi16(                                                                 \
      WORD(4 * (group) + (z0)), WORD(4 * (group) + (z1)), WORD(4 * (group) + (z2)), WORD(4 * (group) + (z3)), \
      WORD(4 * (group) + (z0)), WORD(4 * (group) + (z1)), WORD(4 * (group) + (z2)), WORD(4 * (group) + (z3))))

/* The tables of `columns` (a multiple of 16) activations, 128 bytes per four groups g: 16 bytes each of
 * low digits g = 0, low 2, high 0, high 2, low 1, low 3, high 1, high 3. */
static void sparse_tables(uint8_t *tables, const int8_t *x, uint32_t columns) {
  const __m256i first[2] = {TERM(0, 1, 0, 0, 0), TERM(1, 1, 0, 0, 0)};
  const __m256i second[2] = {TERM(0, 2, 2, 1, 1), TERM(1, 2, 2, 1, 1)};
  const __m256i third[2] = {TERM(0, 3, 3, 3, 2), TERM(1, 3, 3, 3, 2)};
  const __m256i second_sign = _mm256_broadcastsi128_si256(_mm_setr_epi16(1, 1, 1, 1, -1, -1, -1, -1));
  const __m256i half = _mm256_set1_epi16(MB_SPARSE_BASE / 2), half_bytes = _mm256_set1_epi8(MB_SPARSE_BASE / 2);
  const __m256i low_bits = _mm256_set1_epi16(MB_SPARSE_BASE - 1);
  for (uint32_t c = 0; c < columns; c += 16, x += 16) {
    const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
    const __m256i v_half = _mm256_add_epi16(v, half);
    for (int g = 0; g < 2; g++, tables += 64) { /* one group of each lane: 0 and 2, then 1 and 3 */
      const __m256i two = _mm256_add_epi16(_mm256_shuffle_epi8(v_half, first[g]),
                                           _mm256_sign_epi16(_mm256_shuffle_epi8(v, second[g]), second_sign));
      const __m256i last = _mm256_shuffle_epi8(v, third[g]);
      const __m256i plus = _mm256_add_epi16(two, last), minus = _mm256_sub_epi16(two, last);
      const __m256i low = _mm256_packus_epi16(_mm256_and_si256(plus, low_bits), _mm256_and_si256(minus, low_bits));
      const __m256i high = _mm256_packs_epi16(_mm256_srai_epi16(plus, MB_SPARSE_BASE_BITS),
                                              _mm256_srai_epi16(minus, MB_SPARSE_BASE_BITS));
      _mm256_store_si256((__m256i *)(void *)tables, _mm256_sub_epi8(low, half_bytes));
      _mm256_store_si256((__m256i *)(void *)(tables + 32), high);
    }
  }
}
#undef TERM
#undef WORD

MB_INLINE __m256i load_table(const uint8_t *p) {
  return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)p));
}

MB_INLINE void add_words(int32_t *sums, __m128i words) {
  __m256i *to = (__m256i *)(void *)sums;
  _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), _mm256_cvtepi16_epi32(words)));
}

/* Adds the products of a strip's 32 rows in one tile to `sums`, which are aligned to 32 bytes. */
MB_INLINE void sparse_strip(int32_t *sums, const uint8_t *p, const uint8_t *tables, uint32_t blocks) {
  const __m256i nibble = _mm256_set1_epi8(15), base = _mm256_set1_epi16(1 | MB_SPARSE_BASE << 8);
  const __m256i zero = _mm256_setzero_si256();
  const __m256i correction = _mm256_set1_epi32(MB_SPARSE_CORRECTION);
  for (int i = 0; i < MB_SPARSE_STRIP_ROWS; i += 8, p += 32) {
    __m256i *to = (__m256i *)(void *)(sums + i);
    _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), _mm256_mullo_epi32(load_bytes(p), correction)));
  }
  while (blocks > 0) {
    uint32_t now = blocks < MB_SPARSE_EXACT_BLOCKS ? blocks : MB_SPARSE_EXACT_BLOCKS;
    __m256i a = zero, b = zero; /* rows 0..7 and 16..23; 8..15 and 24..31 */
    blocks -= now;
    for (; now > 0; now--, p += MB_SPARSE_BLOCK, tables += 256) {
      __m256i signs = load_bytes(p + 128); /* the next group's is the highest bit */
      __m256i low = zero, high = zero;
      UNROLL_4
      for (int u = 0; u < 4; u++) { /* groups 2u and 2u + 1 */
        const uint8_t *t = tables + u / 2 * 128 + u % 2 * 16;
        const __m256i q = load_bytes(p + 32 * u);
        const __m256i even = _mm256_and_si256(q, nibble);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
        const __m256i negate0 = _mm256_cmpgt_epi8(zero, signs);
        signs = _mm256_add_epi8(signs, signs);
        const __m256i negate1 = _mm256_cmpgt_epi8(zero, signs);
        signs = _mm256_add_epi8(signs, signs);
        low = _mm256_add_epi8(low, _mm256_xor_si256(negate0, _mm256_shuffle_epi8(load_table(t), even)));
        high = _mm256_add_epi8(high, _mm256_xor_si256(negate0, _mm256_shuffle_epi8(load_table(t + 32), even)));
        low = _mm256_add_epi8(low, _mm256_xor_si256(negate1, _mm256_shuffle_epi8(load_table(t + 64), odd)));
        high = _mm256_add_epi8(high, _mm256_xor_si256(negate1, _mm256_shuffle_epi8(load_table(t + 96), odd)));
        /* One pair of groups after the other: gcc starts on all four at once and spills half of what it looked up. */
        __asm__ volatile("" : "+x"(low), "+x"(high));
      }
      a = _mm256_add_epi16(a, _mm256_maddubs_epi16(base, _mm256_unpacklo_epi8(low, high)));
      b = _mm256_add_epi16(b, _mm256_maddubs_epi16(base, _mm256_unpackhi_epi8(low, high)));
    }
    add_words(sums, _mm256_castsi256_si128(a));
    add_words(sums + 8, _mm256_castsi256_si128(b));
    add_words(sums + 16, _mm256_extracti128_si256(a, 1));
    add_words(sums + 24, _mm256_extracti128_si256(b, 1));
  }
}

/* y = (S * s) * scale of vector n, for 16 rows; S in two halves. */
MB_INLINE void finish_sparse(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row, __m256i low,
                             __m256i high, float *y) {
  const __m256 scale = _mm256_set1_ps(x->scales[n]);
  __m256 scale_low = _mm256_set1_ps(w->scale), scale_high = scale_low;
  if (w->row_scales != NULL) {
    scale_low = _mm256_loadu_ps(w->row_scales + row);
    scale_high = _mm256_loadu_ps(w->row_scales + row + 8);
  }
  store_rows(y + row, _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(low), scale_low), scale),
             _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(high), scale_high), scale), w->rows - row);
}

static void sparse_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  _Alignas(64) uint8_t tables[MB_SPARSE_TILE / 4 * 32];
  _Alignas(64) int32_t sums[SPARSE_ROWS];
  for (uint32_t first = row_begin / MB_SPARSE_STRIP_ROWS * MB_SPARSE_STRIP_ROWS; first < row_end;
       first += SPARSE_ROWS) {
    const uint32_t rows = row_end - first < SPARSE_ROWS ? row_end - first : SPARSE_ROWS;
    memset(sums, 0, sizeof sums);
    for (uint32_t tile = 0; tile < mb_sparse_tiles(w->columns); tile++) {
      const uint32_t columns = mb_sparse_tile_columns(w->columns, tile);
      const uint8_t *p = mb_sparse_strip(w, tile, first);
      sparse_tables(tables, x->codes + (size_t)tile * MB_SPARSE_TILE, columns);
      for (uint32_t r = 0; r < rows; r += MB_SPARSE_STRIP_ROWS, p += mb_sparse_strip_bytes(columns))
        sparse_strip(sums + r, p, tables, columns / 32);
    }
    for (uint32_t r = 0; r < rows; r += MB_STRIP_ROWS)
      if (first + r >= row_begin) /* the range may begin or end in the middle of a strip of 32 */
        finish_sparse(w, x, 0, first + r, load_bytes(sums + r), load_bytes(sums + r + 8), y);
  }
}

/* ---- prefill: many vectors ---- */

/* Whole blocks of a strip's 32 rows to codes t + 1, [columns / 4][16 rows][4] for rows 0..15 at `tile` and for rows
 * 16..31 `second` bytes behind. */
static void unpack_sparse(uint8_t *tile, size_t second, const uint8_t *p, uint32_t columns) {
  /* t of each nibble, column by column of the group: bits 2 and 3 are the signs of the second and third non-zero */
  const __m256i t[4] = {
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1)),
      _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 0, 1, 1, 1, 0, -1, -1, 1, 0, 1, 1, 1, 0, -1, -1)),
      _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 1, 0, 1, -1, -1, 0, 1, 1, 1, 0, -1, -1, -1, 0, -1)),
      _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 1, 1, 0, 1, 1, 1, 0, -1, -1, -1, 0, -1, -1, -1, 0)),
  };
  const __m256i nibble = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
  for (uint32_t c = 0; c < columns; c += 32, p += MB_SPARSE_BLOCK) {
    __m256i signs = load_bytes(p + 128);
    for (int g = 0; g < 8; g++, tile += 64) {
      __m256i q = load_bytes(p + g / 2 * 32), codes[4];
      q = _mm256_and_si256(g % 2 != 0 ? _mm256_srli_epi16(q, 4) : q, nibble);
      const __m256i sign = _mm256_or_si256(_mm256_cmpgt_epi8(zero, signs), one); /* 1 or -1 */
      signs = _mm256_add_epi8(signs, signs);
      for (int i = 0; i < 4; i++) codes[i] = _mm256_add_epi8(_mm256_sign_epi8(_mm256_shuffle_epi8(t[i], q), sign), one);
      /* four columns of a row side by side; the lanes hold rows 0..15 and 16..31 */
      const __m256i low01 = _mm256_unpacklo_epi8(codes[0], codes[1]), low23 = _mm256_unpacklo_epi8(codes[2], codes[3]);
      const __m256i high01 = _mm256_unpackhi_epi8(codes[0], codes[1]);
      const __m256i high23 = _mm256_unpackhi_epi8(codes[2], codes[3]);
      const __m256i rows[4] = {_mm256_unpacklo_epi16(low01, low23), _mm256_unpackhi_epi16(low01, low23),
                               _mm256_unpacklo_epi16(high01, high23), _mm256_unpackhi_epi16(high01, high23)};
      for (int i = 0; i < 4; i += 2) {
        uint8_t *to = tile + 16 * i;
        _mm256_store_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(rows[i], rows[i + 1], 0x20));
        _mm256_store_si256((__m256i *)(void *)(to + second), _mm256_permute2x128_si256(rows[i], rows[i + 1], 0x31));
      }
    }
  }
}

/* t->row is a multiple of 32; of the tile's rows, those from row_begin to row_end - 1 are written. */
static void sparse_tile(const mb_tile *t, uint32_t row_begin, uint32_t row_end) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, strips = t->strips, first = t->first, vectors = t->vectors;
  enum { STRIP = MB_STRIP_ROWS * TERNARY_COLUMNS }; /* bytes of 16 rows in the tile */
  _Alignas(64) uint8_t codes[TILE_ROWS * TERNARY_COLUMNS];
  _Alignas(64) __m256i sums[TILE_VECTORS][TILE_STRIPS][2];
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const int8_t *panel = x->panel + (size_t)first * 4;
  memset(sums, 0, sizeof sums[0] * mb_round_up(vectors, 4));
  for (uint32_t tile = 0; tile < mb_sparse_tiles(w->columns); tile++) {
    const uint32_t columns = mb_sparse_tile_columns(w->columns, tile);
    const uint8_t *p = mb_sparse_strip(w, tile, row) + MB_SPARSE_HEAD;
    for (uint32_t c = 0, width; c < columns; c += width) {
      width = columns - c < TERNARY_COLUMNS ? columns - c : TERNARY_COLUMNS;
      for (uint32_t s = 0; s < strips; s += 2)
        unpack_sparse(codes + s * STRIP, STRIP, p + s / 2 * mb_sparse_strip_bytes(columns) + c / 32 * MB_SPARSE_BLOCK,
                      width);
      for (uint32_t n = 0; n < vectors; n += 4)
        for (uint32_t s = 0; s < strips; s++) {
          block_sums b = widen(dot_block(codes + s * STRIP, panel + (size_t)n * 4, panel_row, width / 4));
          for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++)
              sums[n + i][s][half] = _mm256_add_epi32(sums[n + i][s][half], b.s[i][half]);
        }
      panel += width / 4 * panel_row;
    }
  }
  for (uint32_t n = 0; n < vectors; n++) {
    const __m256i sum = _mm256_set1_epi32(x->sums[first + n]); /* the codes were t + 1 */
    for (uint32_t s = 0; s < strips; s++) {
      const uint32_t r = row + s * MB_STRIP_ROWS;
      if (r < row_begin || r >= row_end) continue;
      finish_sparse(w, x, first + n, r, _mm256_sub_epi32(sums[n][s][0], sum), _mm256_sub_epi32(sums[n][s][1], sum),
                    t->y + (first + n) * t->y_stride);
    }
  }
}

static void multiply_sparse(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                            uint32_t row_end) {
  const uint32_t end = mb_last_row(w, row_end);
  if (x->count == 1) {
    sparse_vector(w, x, y, row_begin, end);
    return;
  }
  mb_tile t = {.w = w, .x = x, .y = y, .y_stride = y_stride};
  for (t.first = 0; t.first < x->count; t.first += TILE_VECTORS) {
    t.vectors = x->count - t.first < TILE_VECTORS ? x->count - t.first : TILE_VECTORS;
    for (t.row = row_begin / MB_SPARSE_STRIP_ROWS * MB_SPARSE_STRIP_ROWS; t.row < end; t.row += TILE_ROWS) {
      const uint32_t left = mb_round_up(end - t.row, MB_SPARSE_STRIP_ROWS) / MB_STRIP_ROWS;
      t.strips = left < TILE_STRIPS ? left : TILE_STRIPS;
      sparse_tile(&t, row_begin, end);
    }
  }
}

#endif

/* MB_FORMAT_VECTOR, AVX2: the products; see vector_rows-impl.h. What costs is fetching the codebook entries, one load
 * each: with vpgatherdd it takes 1.8 times as long (measured on Zen 3).
 *
 * A fragment of avx2.c. It defines multiply_vector_codes(). */
#ifndef MB_KERNELS_AVX2_VECTOR_IMPL_H
#define MB_KERNELS_AVX2_VECTOR_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/avx2_matmul-impl.h"
#include "kernels/vector_rows-impl.h"

/* ---- entries to registers ---- */

MB_INLINE int32_t entry_4(const int8_t *codebook, uint32_t index) {
  int32_t entry;
  memcpy(&entry, codebook + (size_t)index * 4, 4);
  return entry;
}

MB_INLINE __m128i entries_4_by_4(const int8_t *codebook, const uint32_t index[4]) {
  __m128i q = _mm_cvtsi32_si128(entry_4(codebook, index[0]));
  q = _mm_insert_epi32(q, entry_4(codebook, index[1]), 1);
  q = _mm_insert_epi32(q, entry_4(codebook, index[2]), 2);
  return _mm_insert_epi32(q, entry_4(codebook, index[3]), 3);
}

MB_INLINE __m128i entries_2_by_8(const int8_t *codebook, const uint32_t index[2]) {
  const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(codebook + (size_t)index[0] * 8));
  const double *high = (const double *)(const void *)(codebook + (size_t)index[1] * 8);
  return _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(low), high));
}

MB_INLINE __m128i entry_16(const int8_t *codebook, uint32_t index) {
  return _mm_loadu_si128((const __m128i *)(const void *)(codebook + (size_t)index * 16));
}

/* Registers that eight entries of `stride` bytes fill. */
#define REGISTERS(stride) ((stride) / 4)
#define MOST_REGISTERS 4

MB_INLINE void load_entries(__m256i q[MOST_REGISTERS], const int8_t *codebook, const uint8_t *p, uint32_t bits,
                            uint32_t stride) {
  uint32_t index[8];
  read_8_indices(index, p, bits);
  for (uint32_t k = 0; k < REGISTERS(stride); k++)
    if (stride == 4)
      q[k] = _mm256_set_m128i(entries_4_by_4(codebook, index + 4), entries_4_by_4(codebook, index));
    else if (stride == 8)
      q[k] = _mm256_set_m128i(entries_2_by_8(codebook, index + 4 * k + 2), entries_2_by_8(codebook, index + 4 * k));
    else
      q[k] = _mm256_set_m128i(entry_16(codebook, index[2 * k + 1]), entry_16(codebook, index[2 * k]));
}

/* ---- one vector ---- */

/* Both factors are signed: |x| times q with x's sign. */
MB_INLINE __m256i add_products(__m256i sums, __m256i q, __m256i x, __m256i magnitude) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, x));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

MB_INLINE void dot_quad(int32_t sums[QUAD], row_quad *four, const mb_vector_parts *parts, const int8_t *x,
                        uint32_t blocks, uint32_t stride, bool residual, uint32_t bits) {
  const int8_t *const codebook = parts->codebook, *const residual_codebook = parts->residual_codebook;
  const uint32_t residual_bits = parts->residual_bits;
  row_quad at = *four; /* which the compiler knows that nothing else points at */
  __m256i s[QUAD];
  for (int i = 0; i < QUAD; i++) s[i] = _mm256_setzero_si256();
  for (; blocks > 0; blocks--, x += 8 * stride) {
    __m256i a[MOST_REGISTERS], magnitude[MOST_REGISTERS];
    for (uint32_t k = 0; k < REGISTERS(stride); k++) {
      a[k] = load_bytes(x + 32 * k);
      magnitude[k] = _mm256_abs_epi8(a[k]);
    }
    for (int i = 0; i < QUAD; i++) {
      __m256i q[MOST_REGISTERS], more[MOST_REGISTERS];
      load_entries(q, codebook, at.p[i], bits, stride);
      at.p[i] += bits;
      if (residual) {
        load_entries(more, residual_codebook, at.residual[i], residual_bits, stride);
        at.residual[i] += residual_bits;
        for (uint32_t k = 0; k < REGISTERS(stride); k++) q[k] = _mm256_add_epi8(q[k], more[k]);
      }
      for (uint32_t k = 0; k < REGISTERS(stride); k++) s[i] = add_products(s[i], q[k], a[k], magnitude[k]);
    }
  }
  *four = at;
  const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
  const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  __m128i *to = (__m128i *)(void *)sums;
  _mm_storeu_si128(to, _mm_add_epi32(_mm_loadu_si128(to), all));
}

/* ---- many vectors ---- */

/* Eight rows of 32 bytes, `stride` apart, to [8][8 rows][4 columns], 64 bytes from one to the next. */
MB_INLINE void transpose_fours(int8_t *to, const int8_t *rows, size_t stride) {
  __m256i r[8], pairs[8], fours[8];
  for (int i = 0; i < 8; i++) r[i] = load_bytes(rows + i * stride);
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; k++) {
      fours[i + 2 * k] = _mm256_unpacklo_epi64(pairs[i + k], pairs[i + k + 2]);
      fours[i + 2 * k + 1] = _mm256_unpackhi_epi64(pairs[i + k], pairs[i + k + 2]);
    }
  for (int j = 0; j < 4; j++) {
    const __m256i low = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x20);
    const __m256i high = _mm256_permute2x128_si256(fours[j], fours[4 + j], 0x31);
    _mm256_store_si256((__m256i *)(void *)(to + 64 * j), low);
    _mm256_store_si256((__m256i *)(void *)(to + 64 * (4 + j)), high);
  }
}

/* A tile of a strip's codes as dot_group_wide wants them. */
static void write_strip(int16_t *tile, const mb_matrix *w, uint32_t row, uint32_t begin, uint32_t end) {
  _Alignas(32) int8_t rows[MB_STRIP_ROWS][WRITTEN_STRIDE], fours[CODE_COLUMNS * MB_STRIP_ROWS];
  memset(rows, 0, sizeof rows); /* whole registers are read */
  write_rows(rows, w, row, begin, end);
  for (uint32_t c = 0; c < end - begin; c += 32)
    for (uint32_t half = 0; half < 2; half++)
      transpose_fours(fours + c * MB_STRIP_ROWS + 32 * half, rows[8 * half] + c, sizeof rows[0]);
  unpack_8_bits(tile, (const uint8_t *)fours, mb_round_up(end - begin, 4));
}

/* The sums of a tile's products: int32, and with groups of activations float. */
typedef struct {
  _Alignas(64) __m256i whole[TILE_VECTORS][WIDE_STRIPS][2];
  _Alignas(64) __m256 grouped[TILE_VECTORS][WIDE_STRIPS][2];
} code_sums;

static void code_tile(const mb_tile *t) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, strips = t->strips, first = t->first, vectors = t->vectors;
  _Alignas(64) int16_t tile[WIDE_STRIPS][CODE_COLUMNS * MB_STRIP_ROWS], wide[TILE_VECTORS * CODE_COLUMNS];
  code_sums sums;
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t blocks = mb_round_up(vectors, 4), step = tile_columns(w->vector.length);
  memset(sums.whole, 0, sizeof sums.whole[0] * blocks);
  memset(sums.grouped, 0, sizeof sums.grouped[0] * blocks);
  for (uint32_t c = 0; c < w->columns; c += step) {
    const uint32_t end = w->columns - c < step ? w->columns : c + step, columns = mb_round_up(end - c, 4);
    for (uint32_t s = 0; s < strips; s++) write_strip(tile[s], w, row + s * MB_STRIP_ROWS, c, end);
    widen_panel(wide, x->panel + c / 4 * panel_row + (size_t)first * 4, panel_row, columns, blocks);
    for (uint32_t n = 0; n < blocks; n += 4)
      for (uint32_t s = 0; s < strips; s++) {
        const block_sums b = dot_group_wide(tile[s], wide + (size_t)n * 4, (size_t)blocks * 4, columns);
        for (uint32_t i = 0; i < 4; i++) {
          /* Vectors that only fill up the last four take the last real one's scale; what comes out is not used. */
          const uint32_t vector = first + n + i < x->count ? first + n + i : x->count - 1;
          const float scale = x->scales[(size_t)vector * x->groups + (x->group != 0 ? c / CODE_COLUMNS : 0)];
          for (int half = 0; half < 2; half++) {
            __m256i *whole = &sums.whole[n + i][s][half];
            __m256 *grouped = &sums.grouped[n + i][s][half];
            *whole = _mm256_add_epi32(*whole, b.s[i][half]);
            if (x->group == 0 && end < w->columns) continue;
            *grouped = _mm256_add_ps(*grouped, _mm256_mul_ps(_mm256_cvtepi32_ps(*whole), _mm256_set1_ps(scale)));
            *whole = _mm256_setzero_si256();
          }
        }
      }
  }
  for (uint32_t s = 0; s < strips; s++) {
    const uint32_t r = row + s * MB_STRIP_ROWS;
    const uint8_t *d = w->vector.row_scales + 2 * (size_t)r; /* whole strips may be read: the section fills 64 bytes */
    const __m256 scale = _mm256_set1_ps(w->scale);
    const __m256 low = _mm256_mul_ps(load_8_f16(d), scale), high = _mm256_mul_ps(load_8_f16(d + 16), scale);
    for (uint32_t n = 0; n < vectors; n++)
      store_rows(t->y + (first + n) * t->y_stride + r, _mm256_mul_ps(sums.grouped[n][s][0], low),
                 _mm256_mul_ps(sums.grouped[n][s][1], high), w->rows - r);
  }
}

/* ---- the table's entry ---- */

static void multiply_vector_codes(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride,
                                  uint32_t row_begin, uint32_t row_end) {
  const uint32_t end = mb_last_row(w, row_end);
  const mb_tile whole = {.w = w, .x = x, .y = y, .y_stride = y_stride, .row = row_begin};
  if (x->count > 1)
    mb_each_tile(&whole, end, WIDE_STRIPS, TILE_VECTORS, code_tile);
  else
    multiply_codes_by_vector(w, x, y, row_begin, end);
}

#endif

/* MB_FORMAT_SIGN1, decoding, AVX2: sums of four activations are looked up, for 16 rows and two quads of columns at a
 * time. What the tables hold is said in sign_layout.h.
 *
 * A fragment of avx2_matvec-impl.h, whose row_sums it uses. It defines sign_vector(). */
#ifndef MB_KERNELS_AVX2_SIGN_IMPL_H
#define MB_KERNELS_AVX2_SIGN_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/sign_layout.h"

/* The tables of `columns` (a multiple of 32) activations, 128 bytes per 16 columns: of their quads 0..3 the digits
 * low 0, low 2, high 0, high 2, low 1, low 3, high 1, high 3. */
static void sign_tables(uint8_t *tables, const int8_t *x, uint32_t columns) {
  /* A lane has 8 columns; the four values of the pair of columns 2i, 2i + 1 are its bytes 4i..4i+3. */
  const __m256i even = _mm256_setr_epi8(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6, 8, 8, 8, 8, 10, 10, 10, 10, 12,
                                        12, 12, 12, 14, 14, 14, 14);
  const __m256i odd = _mm256_add_epi8(even, _mm256_set1_epi8(1)), zero = _mm256_setzero_si256();
  const __m256i even_sign = _mm256_set1_epi32(0x01ff01ff), odd_sign = _mm256_set1_epi32(0x0101ffff);
  const __m256i digit = _mm256_set1_epi8(MB_SIGN_BASE - 1);
  for (uint32_t c = 0; c < columns; c += 16) {
    const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(x + c)));
    const __m256i pairs =
        _mm256_add_epi8(_mm256_max_epi8(_mm256_sign_epi8(_mm256_shuffle_epi8(v, even), even_sign), zero),
                        _mm256_max_epi8(_mm256_sign_epi8(_mm256_shuffle_epi8(v, odd), odd_sign), zero));
    const __m256i digits[2] = {_mm256_and_si256(pairs, digit), _mm256_and_si256(_mm256_srli_epi16(pairs, 4), digit)};
    for (int quad = 0; quad < 2; quad++) {
      const __m256i bits01 = _mm256_set1_epi32(0x03020100 + 0x08080808 * quad);
      const __m256i bits23 = _mm256_broadcastsi128_si256(
          _mm_add_epi8(_mm_setr_epi8(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7), _mm_set1_epi8((char)(8 * quad))));
      for (int i = 0; i < 2; i++, tables += 32)
        _mm256_store_si256((__m256i *)(void *)tables, _mm256_add_epi8(_mm256_shuffle_epi8(digits[i], bits01),
                                                                      _mm256_shuffle_epi8(digits[i], bits23)));
    }
  }
}

/* 2 * V of the rows 0..7 and 8..15, `columns` (32, 64 or 128) columns at p: at most 2 * 128 * 127 = 32,512. */
MB_INLINE row_sums group_signs(const uint8_t *p, const uint8_t *tables, uint32_t columns) {
  const __m256i nibble = _mm256_set1_epi8(15), twice = _mm256_set1_epi16(2 | 2 * MB_SIGN_BASE << 8);
  __m256i a = _mm256_setzero_si256(), b = a; /* 16 bits: rows 0..7, 8..15; the lanes hold different columns */
  for (uint32_t c = 0; c < columns; c += 64) {
    __m256i low = _mm256_setzero_si256(), high = low;
    for (uint32_t i = c; i < c + 64 && i < columns; i += 16, p += 32, tables += 128) {
      const __m256i q = load_bytes(p);
      const __m256i first = _mm256_and_si256(q, nibble), second = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
      low = _mm256_add_epi8(low, _mm256_shuffle_epi8(load_bytes(tables), first));
      high = _mm256_add_epi8(high, _mm256_shuffle_epi8(load_bytes(tables + 32), first));
      low = _mm256_add_epi8(low, _mm256_shuffle_epi8(load_bytes(tables + 64), second));
      high = _mm256_add_epi8(high, _mm256_shuffle_epi8(load_bytes(tables + 96), second));
    }
    a = _mm256_add_epi16(a, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low, high), twice));
    b = _mm256_add_epi16(b, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low, high), twice));
  }
  const __m128i rows0 = _mm_add_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i rows8 = _mm_add_epi16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  return (row_sums){_mm256_cvtepi16_epi32(rows0), _mm256_cvtepi16_epi32(rows8)};
}

/* `groups` groups of the strip at p, added to the strip's 16 float sums. */
MB_INLINE void sign_strip(float *sums, const uint8_t *p, const uint8_t *tables, const int32_t *totals,
                          const float *scales, uint32_t groups, uint32_t group, bool ahead) {
  const size_t head = mb_record_head_bytes(0), record = head + mb_code_bytes(1, group);
  __m256 low = _mm256_load_ps(sums), high = _mm256_load_ps(sums + 8);
  for (uint32_t g = 0; g < groups; g++, p += record, tables += (size_t)group * 8) {
    for (uint32_t i = 0; i < record; i += 64) prefetch_64(p + i, ahead);
    const row_sums s = group_signs(p + head, tables, group);
    const __m256i total = _mm256_set1_epi32(totals[g]);
    const __m256 scale = _mm256_set1_ps(scales[g]);
    const __m256 t_low = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(s.low, total)), load_8_f16(p));
    const __m256 t_high = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(s.high, total)), load_8_f16(p + 16));
    low = _mm256_add_ps(low, _mm256_mul_ps(t_low, scale));
    high = _mm256_add_ps(high, _mm256_mul_ps(t_high, scale));
  }
  _mm256_store_ps(sums, low);
  _mm256_store_ps(sums + 8, high);
}

#include "kernels/avx2_sign_tiles-impl.h"

#endif

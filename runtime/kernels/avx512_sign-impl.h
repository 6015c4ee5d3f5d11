/* MB_FORMAT_SIGN1, decoding, AVX-512: as in avx2_sign-impl.h, for 16 rows and eight quads of columns at a time.
 *
 * A fragment of avx512.c. It defines mb_avx512_multiply_signs() and mb_avx512_multiply_signs_ahead(). */
#ifndef MB_KERNELS_AVX512_SIGN_IMPL_H
#define MB_KERNELS_AVX512_SIGN_IMPL_H

#include "kernels/avx512_common.h"
#include "kernels/sign_layout.h"

/* The tables of `columns` (a multiple of 32) activations, 256 bytes per 32 columns, a lane for 8 of them: the digits
 * low and high of their first quads, then of their second ones. */
static void sign_tables(uint8_t *tables, const int8_t *x, uint32_t columns) {
  /* A lane's bytes 4i..4i+3 become the four values of its pair of columns 2i, 2i + 1. */
  const __m512i even = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6));
  const __m512i odd = _mm512_add_epi8(even, _mm512_set1_epi8(1)), zero = _mm512_setzero_si512();
  const __m512i lanes = _mm512_setr_epi64(0, 0, 1, 0, 2, 0, 3, 0), digit = _mm512_set1_epi8(MB_SIGN_BASE - 1);
  const __m512i bits01 = _mm512_set1_epi32(0x03020100);
  const __m512i bits23 = _mm512_broadcast_i32x4(_mm_setr_epi8(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7));
  for (uint32_t c = 0; c < columns; c += 32) {
    const __m512i v = _mm512_permutexvar_epi64(lanes, _mm512_castsi256_si512(load_bytes(x + c)));
    const __m512i a = _mm512_shuffle_epi8(v, even), b = _mm512_shuffle_epi8(v, odd);
    /* Of the pair's bits the lower says whether the even column is added, the higher the odd one. */
    const __m512i pairs = _mm512_add_epi8(_mm512_max_epi8(_mm512_mask_sub_epi8(a, 0x5555555555555555, zero, a), zero),
                                          _mm512_max_epi8(_mm512_mask_sub_epi8(b, 0x3333333333333333, zero, b), zero));
    const __m512i digits[2] = {_mm512_and_si512(pairs, digit), _mm512_and_si512(_mm512_srli_epi16(pairs, 4), digit)};
    for (char first = 0; first < 16; first += 8) /* of the quad's bytes */
      for (int i = 0; i < 2; i++, tables += 64)
        _mm512_store_si512(
            tables, _mm512_add_epi8(_mm512_shuffle_epi8(digits[i], _mm512_add_epi8(bits01, _mm512_set1_epi8(first))),
                                    _mm512_shuffle_epi8(digits[i], _mm512_add_epi8(bits23, _mm512_set1_epi8(first)))));
  }
}

/* A lane's 16 rows to 16 rows of four lanes each. */
MB_INLINE __m512i by_rows(__m512i v) {
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i rows = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, v), rows);
}

/* `groups` groups of the strip at p, added to the strip's 16 float sums. */
MB_INLINE void sign_strip(float *sums, const uint8_t *p, const uint8_t *tables, const int32_t *totals,
                          const float *scales, uint32_t groups, uint32_t group, bool ahead) {
  const size_t head = mb_record_head_bytes(0), record = head + mb_code_bytes(1, group);
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 f = _mm512_load_ps(sums);
  for (uint32_t g = 0; g < groups; g++, p += record) {
    for (uint32_t i = 0; i < record; i += 64) prefetch_64(p + i, ahead);
    __m512i low = _mm512_setzero_si512(), high = low; /* MB_SIGN_EXACT look-ups at most */
    for (uint32_t c = 0; c < group; c += 32, tables += 256) {
      const uint8_t *codes = p + head + 2 * c;
      const __m512i q = load_64_bytes(codes), first = _mm512_and_si512(q, nibble);
      const __m512i second = _mm512_and_si512(_mm512_srli_epi16(q, 4), nibble);
      low = _mm512_add_epi8(low, _mm512_shuffle_epi8(load_64_bytes(tables), first));
      high = _mm512_add_epi8(high, _mm512_shuffle_epi8(load_64_bytes(tables + 64), first));
      low = _mm512_add_epi8(low, _mm512_shuffle_epi8(load_64_bytes(tables + 128), second));
      high = _mm512_add_epi8(high, _mm512_shuffle_epi8(load_64_bytes(tables + 192), second));
    }
    __m512i s = _mm512_set1_epi32(totals[g]);
    s = _mm512_dpbusd_epi32(s, by_rows(low), _mm512_set1_epi8(2));
    s = _mm512_dpbusd_epi32(s, by_rows(high), _mm512_set1_epi8(2 * MB_SIGN_BASE));
    const __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(s), load_16_f16(p));
    f = _mm512_add_ps(f, _mm512_mul_ps(t, _mm512_set1_ps(scales[g])));
  }
  _mm512_store_ps(sums, f);
}

#include "kernels/avx2_sign_tiles-impl.h"

void mb_avx512_multiply_signs(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                              uint32_t row_end) {
  sign_vector(w, x, y, row_begin, row_end, false);
}
void mb_avx512_multiply_signs_ahead(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                                    uint32_t row_end) {
  sign_vector(w, x, y, row_begin, row_end, true);
}

#endif

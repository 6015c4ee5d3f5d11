/* Trellis codes, AVX2: windows of the stored bits look codes up by byte shuffles, 32 at a time. What a window is: see
 * packed/trellis_layout.h.
 *
 * A fragment of avx2_matmul-impl.h and avx2_matvec-impl.h. It defines trellis_codes_2() and trellis_codes_3(). */
#ifndef MB_KERNELS_AVX2_TRELLIS_IMPL_H
#define MB_KERNELS_AVX2_TRELLIS_IMPL_H

#include "kernels/avx2_common.h"
#include "packed/trellis_layout.h"

MB_INLINE __m256i trellis_table(const uint8_t table[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* The words of eight rows, turned left by `bits`: then the windows of the columns 4 * f + k are the low bits of the
 * bytes shifted right by 2 * f. */
MB_INLINE __m256i turned_left(__m256i words, int bits) {
  return _mm256_or_si256(_mm256_slli_epi32(words, bits), _mm256_srli_epi32(words, 32 - bits));
}

/* 16 columns x 8 rows at p: codes[f] has those of the columns 4 * f .. 4 * f + 3. */
MB_INLINE void trellis_codes_2(__m256i codes[4], __m256i table, const uint8_t *p) {
  const __m256i nibble = _mm256_set1_epi8(15), q = load_bytes(p);
  codes[0] = _mm256_shuffle_epi8(table, _mm256_and_si256(turned_left(q, 2), nibble));
  codes[1] = _mm256_shuffle_epi8(table, _mm256_and_si256(q, nibble));
  codes[2] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(q, 2), nibble));
  codes[3] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
}

/* The same with 3 bits. The columns' bits of the plane are the bits 3 to 6 of the bytes of `plane`. */
MB_INLINE void trellis_codes_3(__m256i codes[4], __m256i table, const uint8_t *p, __m256i plane) {
  const __m256i bits0_2 = _mm256_set1_epi8(7), bit3 = _mm256_set1_epi8(8), q = load_bytes(p);
  const __m256i pairs[4] = {turned_left(q, 1), _mm256_srli_epi16(q, 1), _mm256_srli_epi16(q, 3),
                            _mm256_srli_epi16(q, 5)};
  const __m256i highs[4] = {plane, _mm256_srli_epi16(plane, 1), _mm256_srli_epi16(plane, 2),
                            _mm256_srli_epi16(plane, 3)};
  for (int f = 0; f < 4; f++)
    codes[f] = _mm256_shuffle_epi8(
        table, _mm256_or_si256(_mm256_and_si256(pairs[f], bits0_2), _mm256_and_si256(highs[f], bit3)));
}

#endif

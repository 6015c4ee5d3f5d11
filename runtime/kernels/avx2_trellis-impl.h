/* Trellis codes, AVX2: windows of the stored bits look codes up by byte shuffles, 32 at a time. What a window is: see
 * packed/trellis_layout.h.
 *
 * A fragment of avx2_matmul-impl.h and avx2_matvec-impl.h. It defines trellis_codes_2(), _25() and _3(). */
#ifndef MB_KERNELS_AVX2_TRELLIS_IMPL_H
#define MB_KERNELS_AVX2_TRELLIS_IMPL_H

#include "kernels/avx2_common.h"
#include "packed/trellis_layout.h"

MB_INLINE __m256i trellis_table(const uint8_t table[16]) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* The words of eight rows, turned left by `bits`. */
MB_INLINE __m256i turned_left(__m256i words, int bits) {
  return _mm256_or_si256(_mm256_slli_epi32(words, bits), _mm256_srli_epi32(words, 32 - bits));
}

/* windows[f]: those of the columns 4 * f .. 4 * f + 3, as with 2 bits, in the low nibbles; above them anything. */
MB_INLINE void trellis_windows(__m256i windows[4], __m256i q) {
  const __m256i sums = turned_left(_mm256_xor_si256(q, turned_left(q, 2)), 1); /* the even bits: of two upper bits */
  const __m256i change = _mm256_xor_si256(q, sums);
  const __m256i odd = _mm256_xor_si256(q, _mm256_and_si256(change, _mm256_set1_epi8(0x11)));
  const __m256i even = turned_left(_mm256_xor_si256(q, _mm256_and_si256(change, _mm256_set1_epi8(0x44))), 2);
  windows[0] = even;
  windows[1] = odd;
  windows[2] = _mm256_srli_epi16(even, 4);
  windows[3] = _mm256_srli_epi16(odd, 4);
}

MB_INLINE __m256i trellis_code_2(__m256i table, __m256i window) {
  return _mm256_shuffle_epi8(table, _mm256_and_si256(window, _mm256_set1_epi8(15)));
}
/* Bit 1 of the bytes of `plane` is the columns'. */
MB_INLINE __m256i trellis_code_3(__m256i table, __m256i window, __m256i plane) {
  return _mm256_shuffle_epi8(table, _mm256_or_si256(_mm256_and_si256(window, _mm256_set1_epi8(13)),
                                                    _mm256_and_si256(plane, _mm256_set1_epi8(2))));
}

/* 16 columns x 8 rows at p: codes[f] has those of the columns 4 * f .. 4 * f + 3. */
MB_INLINE void trellis_codes_2(__m256i codes[4], __m256i table, const uint8_t *p) {
  trellis_windows(codes, load_bytes(p));
  for (int f = 0; f < 4; f++) codes[f] = trellis_code_2(table, codes[f]);
}

/* The same with 3 bits. The columns' bits of the plane are the bits 1 to 4 of the bytes of `plane`. */
MB_INLINE void trellis_codes_3(__m256i codes[4], __m256i table, const uint8_t *p, __m256i plane) {
  trellis_windows(codes, load_bytes(p));
  codes[0] = trellis_code_3(table, codes[0], plane);
  codes[1] = trellis_code_3(table, codes[1], _mm256_srli_epi16(plane, 1));
  codes[2] = trellis_code_3(table, codes[2], _mm256_srli_epi16(plane, 2));
  codes[3] = trellis_code_3(table, codes[3], _mm256_srli_epi16(plane, 3));
}
/* Such bits from a word of the plane, which has those of 32 columns: of the first 16, or of the others. */
MB_INLINE __m256i half_plane(__m256i plane, bool others) {
  return others ? _mm256_srli_epi16(plane, 3) : _mm256_slli_epi16(plane, 1);
}

/* The same with 2.5 bits. The bits of the plane are the bits 1 and 2 of the bytes of `plane`. */
MB_INLINE void trellis_codes_25(__m256i codes[4], const __m256i tables[2], const uint8_t *p, __m256i plane) {
  trellis_windows(codes, load_bytes(p));
  codes[0] = trellis_code_3(tables[0], codes[0], plane);
  codes[1] = trellis_code_2(tables[1], codes[1]);
  codes[2] = trellis_code_3(tables[0], codes[2], _mm256_srli_epi16(plane, 1));
  codes[3] = trellis_code_2(tables[1], codes[3]);
}
/* Such bits from a word of the plane, which has those of 64 columns: of the block-th 16. block: a constant. */
MB_INLINE __m256i quarter_plane(__m256i plane, int block) {
  return block == 0 ? _mm256_slli_epi16(plane, 1) : _mm256_srli_epi16(plane, 2 * block - 1);
}

#endif

/* What the parts of avx512.c share. */
#ifndef MB_KERNELS_AVX512_COMMON_H
#define MB_KERNELS_AVX512_COMMON_H

#include "kernels/avx2_common.h"

MB_INLINE __m512i load_64_bytes(const void *p) { return _mm512_loadu_si512(p); }

/* Four neighbouring bytes, 16 times. */
MB_INLINE __m512i broadcast_4_bytes(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}

MB_INLINE __m512 load_16_f16(const void *p) { return _mm512_cvtph_ps(load_bytes(p)); }

#endif

/* What the parts of avx2.c share. */
#ifndef MB_KERNELS_AVX2_COMMON_H
#define MB_KERNELS_AVX2_COMMON_H

#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/unroll.h"
#include "packed/layout.h"

#define MB_INLINE static inline __attribute__((always_inline))

/* A case of a switch: a function of a constant number of rows, ROWS, so that its accumulators are registers. */
#define FOR_ROWS(n, call) \
  case n: {               \
    enum { ROWS = n };    \
    call;                 \
    break;                \
  }

MB_INLINE __m256i load_bytes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Fetches what will be read soon. The processor does so by itself, but no further than a page's end. */
MB_INLINE void fetch_group(const void *p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* How far ahead of the codes to ask for memory. Measured: on Intel servers 2 KB make one thread a quarter faster from
 * memory (the hardware's own prefetch does not keep up with one stream), on AMD's Zen 4 any distance costs. Asking for
 * what lies behind the payload is harmless: a prefetch never faults. */
#define PREFETCH_BYTES 2048

MB_INLINE void prefetch_64(const uint8_t *p, bool ahead) {
  if (ahead) _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
}

/* Four neighbouring columns of a vector against eight rows. */
MB_INLINE __m256i broadcast_4(const int8_t *x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

MB_INLINE __m256 load_8_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

/* Scales of the rows 8 * half .. 8 * half + 7 of a record; flags: the matrix's. */
MB_INLINE __m256 load_8_scales(const uint8_t *record, int half, uint32_t flags) {
  if ((flags & MB_FLAG_E4M4) == 0) return load_8_f16(record + 16 * half);
  const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(record + 8 * half)));
  return _mm256_cvtph_ps(_mm_slli_epi16(codes, MB_E4M4_SHIFT));
}

/* Zero points of the same rows, in units of mb_zero_unit. */
MB_INLINE __m256 load_8_zeros(const uint8_t *record, int half) {
  const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(record + 16 + 8 * half));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}

/* t, sums of products, less what the zero points add to them; sum: of the activations. All of it is exact. */
MB_INLINE __m256 less_zeros(__m256 t, __m256 zeros, __m256 sum, uint32_t bits) {
  return _mm256_sub_ps(t, _mm256_mul_ps(zeros, _mm256_mul_ps(sum, _mm256_set1_ps(mb_zero_unit(bits)))));
}

/* (i, i + 4), (i, i + 2), (0 + 1) */
MB_INLINE float add_8_parts(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Rows 0..7 (low) and 8..15 (high) of a strip; `rows` of them exist, fewer than 16 in a matrix's last strip. */
MB_INLINE void store_rows(float *y, __m256 low, __m256 high, uint32_t rows) {
  if (rows >= MB_STRIP_ROWS) {
    _mm256_storeu_ps(y, low);
    _mm256_storeu_ps(y + 8, high);
  } else {
    float all[MB_STRIP_ROWS];
    _mm256_storeu_ps(all, low);
    _mm256_storeu_ps(all + 8, high);
    memcpy(y, all, rows * sizeof *y);
  }
}

#endif

/* Sums of products over many tokens, with factors in bfloat16 and sums in float32: a Hessian, and how inputs changed.
 *
 * The tokens go through in blocks of DEPTH. Of a block, both matrices are packed into panels: of every two tokens the
 * two bfloat16 values of a column together, as VDPBF16PS wants them. A panel of WIDE columns of b stays in the
 * first-level cache while all panels of HIGH columns of a meet it; a tile of HIGH x WIDE sums stays in registers. */
#include <stdlib.h>
#include <string.h>

#include "base/aligned.h"
#include "base/error.h"
#include "search/search.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { HIGH = 12, WIDE = 32, LANES = 16, PAIRS = 256, DEPTH = 2 * PAIRS, MOST_COLUMNS = 1 << 20 };

#define TARGET __attribute__((target("avx512f,avx512bw,avx512bf16")))

/* The values of 16 columns of two tokens; the second token may be missing. */
TARGET static inline __m512i paired(const float *first, const float *second, __mmask16 columns) {
  const __m512 none = _mm512_setzero_ps();
  const __m512 low = _mm512_maskz_loadu_ps(columns, first);
  const __m512 high = second == NULL ? none : _mm512_maskz_loadu_ps(columns, second);
  const __m512i lows = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
  const __m512i highs = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
  return _mm512_or_si512(lows, _mm512_slli_epi32(highs, 16));
}

/* Panels of `width` columns (a multiple of 4 up to 32), pair by pair of the tokens; what is missing is 0. */
TARGET static void pack(const float *from, size_t tokens, uint32_t columns, uint32_t width, uint32_t *to) {
  for (uint32_t begin = 0; begin < columns; begin += width) {
    const uint32_t own = columns - begin < width ? columns - begin : width;
    for (uint32_t pair = 0; pair < PAIRS; pair++, to += width) {
      const size_t token = 2 * (size_t)pair;
      const float *first = from + token * columns + begin;
      const float *second = token + 1 < tokens ? first + columns : NULL;
      for (uint32_t at = 0; at < width; at += LANES) {
        const uint32_t here = own <= at || token >= tokens ? 0 : own - at < LANES ? own - at : LANES;
        const uint32_t room = width - at < LANES ? width - at : LANES;
        const __m512i both = paired(first + at, second == NULL ? NULL : second + at, (__mmask16)((1U << here) - 1));
        _mm512_mask_storeu_epi32(to + at, (__mmask16)((1U << room) - 1), both);
      }
    }
  }
}

/* A tile of sums, some of whose rows and columns may lie outside. */
TARGET static void add_tile(const uint32_t *a, const uint32_t *b, float *sums, size_t stride, uint32_t rows,
                            uint32_t columns) {
  __m512 low[HIGH], high[HIGH];
  for (int i = 0; i < HIGH; i++) low[i] = high[i] = _mm512_setzero_ps();
  for (uint32_t pair = 0; pair < PAIRS; pair++, a += HIGH, b += WIDE) {
    const __m512bh left = (__m512bh)_mm512_load_si512(b), right = (__m512bh)_mm512_load_si512(b + LANES);
#pragma GCC unroll 12
    for (int i = 0; i < HIGH; i++) {
      const __m512bh value = (__m512bh)_mm512_set1_epi32((int)a[i]);
      low[i] = _mm512_dpbf16_ps(low[i], value, left);
      high[i] = _mm512_dpbf16_ps(high[i], value, right);
    }
  }
  const __mmask16 lows = columns < LANES ? (__mmask16)((1U << columns) - 1) : 0xFFFF;
  const __mmask16 highs = columns <= LANES ? 0 : (__mmask16)((1U << (columns - LANES)) - 1);
#pragma GCC unroll 12
  for (int i = 0; i < HIGH; i++) {
    if ((uint32_t)i >= rows) continue;
    float *row = sums + (size_t)i * stride;
    _mm512_mask_storeu_ps(row, lows, _mm512_add_ps(_mm512_maskz_loadu_ps(lows, row), low[i]));
    if (highs != 0)
      _mm512_mask_storeu_ps(row + LANES, highs, _mm512_add_ps(_mm512_maskz_loadu_ps(highs, row + LANES), high[i]));
  }
}

static size_t panels(uint32_t columns, uint32_t width) { return (columns + width - 1) / width; }

uint32_t mb_bf16_products_supported(void) {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512bf16");
}

mb_status mb_bf16_products(const float *a, const float *b, size_t tokens, uint32_t columns, uint32_t others,
                           uint32_t upper, float *sums) {
  if (columns < 1 || others < 1 || columns > MOST_COLUMNS || others > MOST_COLUMNS || !mb_bf16_products_supported())
    return mb_fail(MB_ERROR_ARGUMENT, "no products of %u and %u columns here", columns, others);
  const size_t highs = panels(columns, HIGH), wides = panels(others, WIDE);
  uint32_t *left = mb_aligned_malloc(highs * HIGH * PAIRS * sizeof *left);
  uint32_t *right = mb_aligned_malloc(wides * WIDE * PAIRS * sizeof *right);
  mb_status status = MB_OK;
  if (left == NULL || right == NULL) {
    status = mb_fail(MB_ERROR_MEMORY, "no memory for products of %u columns", columns);
  } else {
    for (size_t begin = 0; begin < tokens; begin += DEPTH) {
      const size_t own = tokens - begin < DEPTH ? tokens - begin : DEPTH;
      pack(a + begin * columns, own, columns, HIGH, left);
      pack(b + begin * others, own, others, WIDE, right);
      for (size_t w = 0; w < wides; w++) {
        const uint32_t column = (uint32_t)w * WIDE, wide = others - column < WIDE ? others - column : WIDE;
        for (size_t h = 0; h < highs; h++) {
          const uint32_t row = (uint32_t)h * HIGH;
          if (upper && row >= column + wide) break; /* wholly left of the diagonal */
          add_tile(left + h * HIGH * PAIRS, right + w * WIDE * PAIRS, sums + (size_t)row * others + column, others,
                   columns - row < HIGH ? columns - row : HIGH, wide);
        }
      }
    }
  }
  free(left);
  free(right);
  return status;
}

#else

uint32_t mb_bf16_products_supported(void) { return 0; }

mb_status mb_bf16_products(const float *a, const float *b, size_t tokens, uint32_t columns, uint32_t others,
                           uint32_t upper, float *sums) {
  (void)a, (void)b, (void)tokens, (void)columns, (void)others, (void)upper, (void)sums;
  return mb_fail(MB_ERROR_ARGUMENT, "this processor has no units for bfloat16");
}

#endif

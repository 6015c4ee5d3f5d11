/* rANS with AVX2: the 32 lanes in four registers, symbols looked up one by one: that is
 * faster than gathers, on processors with and without a slow form of them. */
#include "storage/rans.h"

#if defined(MB_HAVE_AVX2)
#include <immintrin.h>
#include <string.h>

#define REGISTERS (MB_RANS_LANES / 8)

/* Byte i of row m: how many of the bits of m below bit i are set, which is where lane i finds its word when the lanes
 * in m take one each. */
#define BIT(m, i) (((m) >> (i)) & 1)
#define BELOW_1(m) BIT(m, 0)
#define BELOW_2(m) (BELOW_1(m) + BIT(m, 1))
#define BELOW_3(m) (BELOW_2(m) + BIT(m, 2))
#define BELOW_4(m) (BELOW_3(m) + BIT(m, 3))
#define BELOW_5(m) (BELOW_4(m) + BIT(m, 4))
#define BELOW_6(m) (BELOW_5(m) + BIT(m, 5))
#define BELOW_7(m) (BELOW_6(m) + BIT(m, 6))
#define ROW(m) {0, BELOW_1(m), BELOW_2(m), BELOW_3(m), BELOW_4(m), BELOW_5(m), BELOW_6(m), BELOW_7(m)}
#define ROWS_4(m) ROW(m), ROW((m) + 1), ROW((m) + 2), ROW((m) + 3)
#define ROWS_16(m) ROWS_4(m), ROWS_4((m) + 4), ROWS_4((m) + 8), ROWS_4((m) + 12)
#define ROWS_64(m) ROWS_16(m), ROWS_16((m) + 16), ROWS_16((m) + 32), ROWS_16((m) + 48)
static const uint8_t spread[256][8] = {ROWS_64(0), ROWS_64(64), ROWS_64(128), ROWS_64(192)};

/* table->slot[index], for two 32-bit indices in one number. */
static inline __m128i look_up_2(const mb_rans_table *table, uint64_t indices) {
  const __m128i first = _mm_cvtsi32_si128((int)table->slot[(uint32_t)indices]);
  return _mm_insert_epi32(first, (int)table->slot[indices >> 32], 1);
}

static inline __m128i look_up_4(const mb_rans_table *table, __m128i indices) {
  return _mm_unpacklo_epi64(look_up_2(table, (uint64_t)_mm_cvtsi128_si64(indices)),
                            look_up_2(table, (uint64_t)_mm_extract_epi64(indices, 1)));
}

static inline __m256i look_up_8(const mb_rans_table *table, __m256i indices) {
  return _mm256_set_m128i(look_up_4(table, _mm256_extracti128_si256(indices, 1)),
                          look_up_4(table, _mm256_castsi256_si128(indices)));
}

/* Eight symbols, a 32-bit lane each; *p moves behind the words that were taken. */
static inline __m256i step(const mb_rans_table *table, __m256i *state, const uint8_t **p) {
  const __m256i low12 = _mm256_set1_epi32(MB_RANS_TOTAL - 1);
  const __m256i slot = _mm256_and_si256(*state, low12);
  const __m256i entry = look_up_8(table, slot);
  const __m256i bias = _mm256_and_si256(_mm256_srli_epi32(entry, 8), low12);
  __m256i x = _mm256_mullo_epi32(_mm256_srli_epi32(entry, 20), _mm256_srli_epi32(*state, MB_RANS_BITS));
  x = _mm256_add_epi32(x, bias);
  const __m256i more = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
  const uint32_t mask = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(more));
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*p));
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)spread[mask]));
  const __m256i next = _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, order));
  *state = _mm256_blendv_epi8(x, next, more);
  *p += 2 * (uint32_t)__builtin_popcount(mask);
  return _mm256_and_si256(entry, _mm256_set1_epi32(255));
}

bool mb_rans_decode_avx2(const mb_rans_table *table, uint32_t state[MB_RANS_LANES], const uint8_t *words,
                         const uint8_t *words_end, const uint8_t *readable_end, uint8_t *out, size_t count) {
  __m256i x[REGISTERS];
  memcpy(x, state, sizeof x);
  const uint8_t *p = words;
  size_t i = 0;
  for (; count - i >= MB_RANS_LANES && readable_end - p >= MB_RANS_MARGIN; i += MB_RANS_LANES) {
    const __m256i a = step(table, &x[0], &p), b = step(table, &x[1], &p);
    const __m256i c = step(table, &x[2], &p), d = step(table, &x[3], &p);
    /* Packing works within halves of a register: dword 0 has symbols 0..3, dword 1 symbols 8..11, dword 4 4..7, ... */
    const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)(out + i), ordered);
  }
  memcpy(state, x, sizeof x);
  if (p > words_end) return false;
  return mb_rans_decode_scalar(table, state, p, words_end, words_end, out + i, count - i);
}
#endif

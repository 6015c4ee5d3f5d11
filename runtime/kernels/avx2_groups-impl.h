/* Attention over a KV cache of integers, AVX2: a register is 8 of a group's positions, or 8 dimensions.
 *
 * A fragment of avx2.c; attention_groups-impl.h says what it defines. */
#ifndef MB_KERNELS_AVX2_GROUPS_IMPL_H
#define MB_KERNELS_AVX2_GROUPS_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/quantise.h"

#define GROUP_ROWS 4 /* with 16 scores or dimensions of each: 8 accumulators */
#define SCORE_GROUPS 1
#define FOR_GROUP_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call) FOR_ROWS(3, call) FOR_ROWS(4, call)
#define TABLE_FUNCTION(name) static void name

#include "kernels/attention_groups-impl.h"

/* Adds four products each to 16 sums: of 64 codes of 8 bits in [-127, 127] with x[r * stride .. + 3] of every row. */
MB_INLINE void add_products_8(__m256i sums[GROUP_ROWS][2], const uint8_t *codes, const int8_t *x, size_t stride,
                              uint32_t rows) {
  const __m256i one = _mm256_set1_epi16(1), k0 = load_bytes(codes), k1 = load_bytes(codes + 32);
  const __m256i m0 = _mm256_abs_epi8(k0), m1 = _mm256_abs_epi8(k1);
  for (uint32_t r = 0; r < rows; r++) {
    const __m256i four = broadcast_4(x + r * stride);
    const __m256i p0 = _mm256_maddubs_epi16(m0, _mm256_sign_epi8(four, k0));
    const __m256i p1 = _mm256_maddubs_epi16(m1, _mm256_sign_epi8(four, k1));
    sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(p0, one));
    sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(p1, one));
  }
}

/* The same of halves of 64 bytes, as codes without a sign and into pairs of 16 bits: those hold 8 such calls, as
 * 8 * 2 * 15 * 127 < 2^15. */
MB_INLINE void add_products_4(__m256i pairs[GROUP_ROWS][2], const uint8_t *codes, bool high, const int8_t *x,
                              size_t stride, uint32_t rows) {
  const __m256i fifteen = _mm256_set1_epi8(15);
  __m256i k0 = load_bytes(codes), k1 = load_bytes(codes + 32);
  if (high) k0 = _mm256_srli_epi16(k0, 4), k1 = _mm256_srli_epi16(k1, 4);
  k0 = _mm256_and_si256(k0, fifteen), k1 = _mm256_and_si256(k1, fifteen);
  for (uint32_t r = 0; r < rows; r++) {
    const __m256i four = broadcast_4(x + r * stride);
    pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(k0, four));
    pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(k1, four));
  }
}

/* Both halves of a pair of 16 bits, added. */
MB_INLINE __m256i add_pairs(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

MB_INLINE void clear_sums(__m256i sums[GROUP_ROWS][2], uint32_t rows) {
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
}

MB_INLINE void score_groups(const some_queries *q, const uint8_t *keys, const uint16_t *key_scales, float *scores,
                            size_t scores_stride, uint32_t rows, uint32_t groups, bool int4) {
  (void)groups;
  const size_t stride = (size_t)q->blocks * MB_KV_BLOCK;
  for (uint32_t b = 0; b < q->blocks; b++, key_scales += MB_KV_GROUP) {
    const int8_t *x = q->codes + b * MB_KV_BLOCK;
    __m256i sums[GROUP_ROWS][2];
    clear_sums(sums, rows);
    UNROLL_NOT for (uint32_t i = 0; i < MB_KV_BLOCK / 8; i++, x += 8) {
      if (int4) {
        add_products_4(sums, keys, false, x, stride, rows);
        add_products_4(sums, keys, true, x + 4, stride, rows);
      } else {
        add_products_8(sums, keys, x, stride, rows);
        add_products_8(sums, keys + 64, x + 4, stride, rows);
      }
      keys += int4 ? 64 : 128;
    }
    const __m256 s0 = load_8_f16(key_scales), s1 = load_8_f16(key_scales + 8);
    float *to = scores;
    for (uint32_t r = 0; r < rows; r++, to += scores_stride) {
      const __m256i zeros = _mm256_set1_epi32(MB_INT4_ZERO * q->sums[r * q->blocks + b]);
      const __m256i d0 = int4 ? _mm256_sub_epi32(add_pairs(sums[r][0]), zeros) : sums[r][0];
      const __m256i d1 = int4 ? _mm256_sub_epi32(add_pairs(sums[r][1]), zeros) : sums[r][1];
      const __m256 scale = _mm256_set1_ps(q->scales[r * q->blocks + b]);
      const __m256 f0 = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(to);
      const __m256 f1 = b == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(to + 8);
      _mm256_storeu_ps(to, _mm256_add_ps(f0, _mm256_mul_ps(_mm256_cvtepi32_ps(d0), _mm256_mul_ps(scale, s0))));
      _mm256_storeu_ps(to + 8, _mm256_add_ps(f1, _mm256_mul_ps(_mm256_cvtepi32_ps(d1), _mm256_mul_ps(scale, s1))));
    }
  }
}

MB_INLINE void load_16_scales(const uint16_t *halves, float *scales) {
  _mm256_storeu_ps(scales, load_8_f16(halves));
  _mm256_storeu_ps(scales + 8, load_8_f16(halves + 8));
}

MB_INLINE bool weigh_positions(const float *terms, float limit, const float *value_scales, uint32_t positions,
                               tile_weights *tile, uint32_t row, bool int4) {
  const __m256 zero = _mm256_setzero_ps();
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), bits = _mm256_set1_epi16(127);
  __m256 scaled[MB_KV_TILE / 8], large = zero;
  __m256i most = _mm256_setzero_si256(), sum = most;
  for (uint32_t i = 0; i < positions / 8; i++) {
    const __m256 term = _mm256_loadu_ps(terms + 8 * i);
    scaled[i] = _mm256_and_ps(_mm256_mul_ps(term, _mm256_loadu_ps(value_scales + 8 * i)),
                              _mm256_cmp_ps(term, zero, _CMP_NEQ_UQ));
    most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(scaled[i]), magnitude));
    large = _mm256_or_ps(large, _mm256_cmp_ps(term, _mm256_set1_ps(limit), _CMP_GT_OQ));
  }
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  const bool fine = _mm256_movemask_ps(large) != 0;
  const mb_group_scale s = mb_scale_of_weights((uint32_t)_mm_cvtsi128_si32(m), fine);
  const __m256 inverse = _mm256_set1_ps(s.inverse);
  for (uint32_t i = 0; i < positions / 8; i += 2) {
    /* cvtps rounds to nearest even, as the definition's addition does; what is not finite gives -2^31, and with inverse
     * 0 packs and the scale make of it what they like: 0 * x is 0 or NaN, and NaN is what the scale is then */
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(scaled[i], inverse));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(scaled[i + 1], inverse));
    const __m256i codes = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m256i low = fine ? _mm256_and_si256(codes, bits) : codes;
    const __m256i high = fine ? _mm256_srai_epi16(codes, 7) : _mm256_setzero_si256();
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
    _mm_storeu_si128((__m128i *)(void *)(tile->codes[0][row] + 8 * i), _mm256_castsi256_si128(bytes));
    _mm_storeu_si128((__m128i *)(void *)(tile->codes[1][row] + 8 * i), _mm256_extracti128_si256(bytes, 1));
    sum = _mm256_add_epi32(sum, add_pairs(codes));
  }
  if (int4) { /* 8 bits need no sum */
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    tile->sums[row] = _mm_cvtsi128_si32(t);
  }
  tile->scales[row] = s.scale;
  return fine;
}

/* The products of a tile with one part of its weights, for 16 dimensions: added to the sums. */
MB_INLINE void add_tile(__m256i sums[GROUP_ROWS][2], const int8_t (*weights)[MB_KV_TILE], const uint8_t *values,
                        size_t group_bytes, uint32_t positions, bool high, uint32_t rows, bool int4) {
  for (uint32_t p = 0; p < positions; p += MB_KV_GROUP, values += group_bytes) {
    const uint8_t *v = int4 || !high ? values : values + MB_KV_GROUP * 16;
    __m256i pairs[GROUP_ROWS][2];
    if (int4) clear_sums(pairs, rows);
    UNROLL_NOT for (uint32_t i = 0; i < MB_KV_GROUP; i += 4, v += 64) {
      if (int4)
        add_products_4(pairs, v, high, weights[0] + p + i, MB_KV_TILE, rows);
      else
        add_products_8(sums, v, weights[0] + p + i, MB_KV_TILE, rows);
    }
    for (uint32_t r = 0; r < rows && int4; r++)
      for (int j = 0; j < 2; j++) sums[r][j] = _mm256_add_epi32(sums[r][j], add_pairs(pairs[r][j]));
  }
}

MB_INLINE void mix_tile(const tile_weights *tile, const uint8_t *values, size_t group_bytes, uint32_t positions,
                        float *out, size_t stride, uint32_t first, uint32_t rows, bool fine, bool int4) {
  for (uint32_t high = 0; high < 2; high++, out += 16) {
    __m256i sums[GROUP_ROWS][2];
    clear_sums(sums, rows);
    if (fine) {
      add_tile(sums, tile->codes[1] + first, values, group_bytes, positions, high != 0, rows, int4);
      for (uint32_t r = 0; r < rows; r++)
        for (int j = 0; j < 2; j++) sums[r][j] = _mm256_slli_epi32(sums[r][j], 7);
    }
    add_tile(sums, tile->codes[0] + first, values, group_bytes, positions, high != 0, rows, int4);
    for (uint32_t r = 0; r < rows; r++)
      for (int j = 0; j < 2; j++) {
        float *to = out + r * stride + 8 * j;
        const __m256i zeros = _mm256_set1_epi32(int4 ? MB_INT4_ZERO * tile->sums[first + r] : 0);
        const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r][j], zeros)),
                                          _mm256_set1_ps(tile->scales[first + r]));
        _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), part));
      }
  }
}

#endif

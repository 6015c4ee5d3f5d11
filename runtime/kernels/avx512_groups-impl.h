/* Attention over a KV cache of integers, AVX-512 with VNNI: a register is a group's 16 positions, or 16 dimensions.
 *
 * A fragment of avx512.c; attention_groups-impl.h says what it defines. */
#ifndef MB_KERNELS_AVX512_GROUPS_IMPL_H
#define MB_KERNELS_AVX512_GROUPS_IMPL_H

#include "kernels/avx512_common.h"
#include "kernels/quantise.h"

#define GROUP_ROWS 4
#define SCORE_GROUPS 2 /* with 4 queries: 8 accumulators, and every byte of a query meets two registers of keys */
#define TABLE_FUNCTION(name) void mb_avx512_##name
#define FOR_GROUP_ROWS(call) FOR_ROWS(1, call) FOR_ROWS(2, call) FOR_ROWS(3, call) FOR_ROWS(4, call)

#include "kernels/attention_groups-impl.h"

/* Unsigned bytes, as products take them: the codes and ZERO. */
MB_INLINE __m512i codes_8(const uint8_t *p) { return _mm512_xor_si512(load_64_bytes(p), _mm512_set1_epi8(-128)); }
MB_INLINE __m512i codes_4(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
#define ZERO (int4 ? MB_INT4_ZERO : 128)

MB_INLINE void score_groups(const some_queries *q, const uint8_t *keys, const uint16_t *key_scales, float *scores,
                            size_t scores_stride, uint32_t rows, uint32_t groups, bool int4) {
  const size_t stride = (size_t)q->blocks * MB_KV_BLOCK, group_bytes = (size_t)q->blocks * mb_kv_block_bytes(int4);
  __m512 totals[GROUP_ROWS][SCORE_GROUPS];
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t g = 0; g < groups; g++) totals[r][g] = _mm512_setzero_ps();
  for (uint32_t b = 0; b < q->blocks; b++, key_scales += MB_KV_GROUP) {
    const int8_t *x = q->codes + b * MB_KV_BLOCK;
    __m512i sums[GROUP_ROWS][SCORE_GROUPS];
    for (uint32_t r = 0; r < rows; r++)
      for (uint32_t g = 0; g < groups; g++) sums[r][g] = _mm512_set1_epi32(-ZERO * q->sums[r * q->blocks + b]);
    for (uint32_t i = 0; i < MB_KV_BLOCK / 8; i++, x += 8) {
      __m512i k[SCORE_GROUPS][2];
      for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *from = keys + g * group_bytes;
        const __m512i bytes = load_64_bytes(from);
        k[g][0] = int4 ? codes_4(bytes) : codes_8(from);
        k[g][1] = int4 ? codes_4(_mm512_srli_epi16(bytes, 4)) : codes_8(from + 64);
      }
      keys += int4 ? 64 : 128;
      for (uint32_t r = 0; r < rows; r++)
        for (uint32_t half = 0; half < 2; half++) {
          const __m512i four = broadcast_4_bytes(x + r * stride + 4 * half);
          for (uint32_t g = 0; g < groups; g++) sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], k[g][half], four);
        }
    }
    for (uint32_t g = 0; g < groups; g++) {
      const __m512 key_scale = load_16_f16(key_scales + (size_t)g * q->blocks * MB_KV_GROUP);
      for (uint32_t r = 0; r < rows; r++) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(q->scales[r * q->blocks + b]), key_scale);
        totals[r][g] = _mm512_add_ps(totals[r][g], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][g]), scale));
      }
    }
  }
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t g = 0; g < groups; g++) _mm512_storeu_ps(scores + r * scores_stride + g * MB_KV_GROUP, totals[r][g]);
}

MB_INLINE void load_16_scales(const uint16_t *halves, float *scales) { _mm512_storeu_ps(scales, load_16_f16(halves)); }

/* Rows of codes lie as packing leaves them: weight_place. */
MB_INLINE void weigh_positions(const float *terms, float limit, const float *value_scales, uint32_t positions,
                               tile_weights *tile, uint32_t row, bool int4) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), bits = _mm512_set1_epi16(127);
  const __m512 zero = _mm512_setzero_ps();
  __m512 scaled[MB_KV_TILE / 16], top = zero;
  __m512i most = _mm512_setzero_si512(), words[2], high;
  for (uint32_t i = 0; i < MB_KV_TILE / 16; i++) {
    scaled[i] = zero;
    if (16 * i >= positions) continue;
    const __m512 term = _mm512_loadu_ps(terms + 16 * i), scale = _mm512_loadu_ps(value_scales + 16 * i);
    scaled[i] = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(term, zero, _CMP_NEQ_UQ), term, scale);
    const __m512i product = _mm512_castps_si512(scaled[i]); /* without a sign with 8 bits, but for a NaN */
    most = _mm512_max_epu32(most, int4 ? _mm512_and_si512(product, magnitude) : product);
    top = _mm512_max_ps(term, top); /* top where the term is NaN */
  }
  const bool fine = _mm512_cmp_ps_mask(top, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
  const uint32_t maximum = _mm512_reduce_max_epu32(most) & 0x7fffffff;
  const mb_group_scale s = mb_scale_of_weights(maximum, fine);
  const __m512 inverse = _mm512_set1_ps(s.inverse);
  for (uint32_t i = 0; i < 2; i++) {
    /* cvtps rounds to nearest even, as the definition's addition does. Where the inverse is 0 the codes are 0, or
     * anything under a scale that is NaN. */
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(scaled[2 * i], inverse));
    const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(scaled[2 * i + 1], inverse));
    words[i] = _mm512_packs_epi32(a, b);
  }
  if (fine) {
    high = _mm512_packs_epi16(_mm512_srai_epi16(words[0], 7), _mm512_srai_epi16(words[1], 7));
    for (uint32_t i = 0; i < 2; i++) words[i] = _mm512_and_si512(words[i], bits);
  } else {
    high = _mm512_setzero_si512();
  }
  const __m512i low = _mm512_packs_epi16(words[0], words[1]);
  _mm512_storeu_si512(tile->codes[0][row], low);
  _mm512_storeu_si512(tile->codes[1][row], high);
  if (int4) { /* 8 bits need no sum */
    const __m512i one = _mm512_set1_epi8(1);
    const __m512i sum = _mm512_slli_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), one, high), 7);
    tile->sums[row] = _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(sum, one, low));
  }
  tile->scales[row] = s.scale;
  tile->fine |= fine;
}

/* Where the codes of position i of the tile's group `group` and of the three behind it lie. */
MB_INLINE uint32_t weight_place(uint32_t group, uint32_t i) { return 4 * i + 4 * group; }

MB_INLINE void mix_tile(const tile_weights *tile, const uint8_t *values, size_t group_bytes, uint32_t positions,
                        float *out, size_t stride, uint32_t rows, bool int4) {
  __m512i sums[GROUP_ROWS][2]; /* of the lower and of the upper 16 dimensions */
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
  for (int part = tile->fine; part >= 0; part--) {
    const uint8_t *v = values;
    for (uint32_t group = 0; group < positions / MB_KV_GROUP; group++, v += group_bytes)
      for (uint32_t i = 0; i < MB_KV_GROUP; i += 4) {
        const __m512i bytes = load_64_bytes(v + 16 * i);
        const __m512i v0 = int4 ? codes_4(bytes) : bytes;
        const __m512i v1 = int4 ? codes_4(_mm512_srli_epi16(bytes, 4)) : load_64_bytes(v + 16 * (MB_KV_GROUP + i));
        for (uint32_t r = 0; r < rows; r++) { /* the unsigned factor: values of 4 bits, weights of 8 */
          const __m512i w = broadcast_4_bytes(tile->codes[part][r] + weight_place(group, i));
          sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], int4 ? v0 : w, int4 ? w : v0);
          sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], int4 ? v1 : w, int4 ? w : v1);
        }
      }
    for (uint32_t r = 0; r < rows && part == 1; r++)
      for (int j = 0; j < 2; j++) sums[r][j] = _mm512_slli_epi32(sums[r][j], 7);
  }
  for (uint32_t r = 0; r < rows; r++, out += stride)
    for (int j = 0; j < 2; j++) {
      const __m512i zeros = _mm512_set1_epi32(int4 ? MB_INT4_ZERO * tile->sums[r] : 0);
      const __m512 part =
          _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][j], zeros)), _mm512_set1_ps(tile->scales[r]));
      _mm512_storeu_ps(out + 16 * j, _mm512_add_ps(_mm512_loadu_ps(out + 16 * j), part));
    }
}

#undef ZERO

#endif

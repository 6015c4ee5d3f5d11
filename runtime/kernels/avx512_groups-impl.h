/* Attention over a KV cache of integers, AVX-512 with VNNI: a register is a group's 16 positions, or 16 dimensions.
 *
 * A fragment of avx512.c; attention_groups-impl.h says what it defines. */
#ifndef MB_KERNELS_AVX512_GROUPS_IMPL_H
#define MB_KERNELS_AVX512_GROUPS_IMPL_H

#include "kernels/avx512_common.h"
#include "kernels/quantise.h"

#define GROUP_ROWS 6
#define SCORE_GROUPS 2 /* with 4 queries: 8 accumulators, and every byte of a query meets two registers of keys */
#define WEIGHS_TILES
#define TABLE_FUNCTION(name) void mb_avx512_##name
#define FOR_GROUP_ROWS(call) \
  FOR_ROWS(1, call) FOR_ROWS(2, call) FOR_ROWS(3, call) FOR_ROWS(4, call) FOR_ROWS(5, call) FOR_ROWS(6, call)

#include "kernels/attention_groups-impl.h"

enum { TILE_REGISTERS = MB_KV_TILE / 16, MOST_WEIGHTS = WEIGH_ROWS * TILE_BLOCKS + 3 };

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

/* Four registers of 16 numbers each to four: the largest of each as bits, or their sums. */
MB_INLINE __m128i of_4_registers(const __m512i v[4], bool largest) {
#define BOTH(a, b) (largest ? _mm512_max_epu32(a, b) : _mm512_add_epi32(a, b))
  const __m512i a = BOTH(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i b = BOTH(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  const __m512i all = BOTH(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const __m512i half = BOTH(all, _mm512_shuffle_i32x4(all, all, 0x4e));
  return _mm512_castsi512_si128(BOTH(half, _mm512_shuffle_i32x4(half, half, 0xb1)));
#undef BOTH
}

/* mb_scale_to_largest, four times. */
MB_INLINE void scales_of_4(__m128i maxima, __m128 largest, float *scales, float *inverses) {
  const __m128i bits = _mm_and_si128(maxima, _mm_set1_epi32(0x7fffffff));
  const __m128 a = _mm_castsi128_ps(bits), nan = _mm_castsi128_ps(_mm_set1_epi32((int)MB_NAN_BITS));
  const __mmask8 some = _mm_cmp_ps_mask(a, _mm_set1_ps(MB_SMALLEST_MAXIMUM), _CMP_NLT_UQ);
  const __mmask8 finite = _mm_cmplt_epi32_mask(bits, _mm_set1_epi32((int)MB_INFINITY_BITS));
  _mm_storeu_ps(scales, _mm_mask_mov_ps(nan, finite, _mm_maskz_div_ps(some, a, largest)));
  _mm_storeu_ps(inverses, _mm_maskz_div_ps((__mmask8)(some & finite), largest, a));
}

/* How the weights of a tile are made: by rows, and by rows and blocks. */
typedef struct {
  __m512i registers[MOST_WEIGHTS]; /* the largest product of 16 positions each, then sums of weights */
  float largest[MOST_WEIGHTS], scales[MOST_WEIGHTS], inverses[MOST_WEIGHTS];
} weighing;

/* 16 terms times the values' scales. whole: every row sees all of the tile. */
MB_INLINE __m512 scaled_terms(const float *terms, const float *scales, uint32_t i, uint32_t positions, bool whole) {
  if (whole) return _mm512_mul_ps(_mm512_loadu_ps(terms + 16 * i), _mm512_loadu_ps(scales + 16 * i));
  if (16 * i >= positions) return _mm512_setzero_ps();
  const __m512 term = _mm512_loadu_ps(terms + 16 * i);
  const __mmask16 seen = _mm512_cmp_ps_mask(term, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  return _mm512_maskz_mul_ps(seen, term, _mm512_loadu_ps(scales + 16 * i));
}

/* Which rows are fine, and the largest product of each row and block with scales that have no sign. Returns false where
 * `whole` was wrong. */
MB_INLINE bool find_largest(weighing *w, const mb_terms *terms, const float (*scales)[MB_KV_TILE], uint32_t positions,
                            uint32_t blocks, bool *fine, bool whole) {
  __m512 least = _mm512_set1_ps(1); /* NaNs, too, leave it alone */
  for (uint32_t r = 0; r < terms->rows; r++) {
    const float *row = terms->terms + r * terms->stride;
    __m512 top = _mm512_setzero_ps();
    for (uint32_t i = 0; i < TILE_REGISTERS; i++) {
      if (!whole && 16 * i >= positions) break;
      const __m512 term = _mm512_loadu_ps(row + 16 * i);
      if (whole) least = _mm512_min_ps(term, least);
      top = _mm512_max_ps(term, top); /* top where the term is NaN */
    }
    fine[r] = _mm512_cmp_ps_mask(top, _mm512_set1_ps(terms->sums[r] * MB_LARGE_TERM), _CMP_GT_OQ) != 0;
    for (uint32_t b = 0; b < blocks; b++) {
      __m512i most[TILE_REGISTERS];
      for (uint32_t i = 0; i < TILE_REGISTERS; i++)
        most[i] = _mm512_castps_si512(scaled_terms(row, scales[b], i, positions, whole));
      w->registers[r * blocks + b] =
          _mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3]));
      w->largest[r * blocks + b] = fine[r] ? 127.0f * 128.0f : 127.0f;
    }
  }
  return !whole || _mm512_cmp_ps_mask(least, _mm512_setzero_ps(), _CMP_LE_OQ) == 0;
}

MB_INLINE void make_codes(weighing *w, const mb_terms *terms, const float (*scales)[MB_KV_TILE], uint32_t positions,
                          tile_weights *tiles, uint32_t blocks, const bool *fine, bool int4, bool whole) {
  const __m512i bits = _mm512_set1_epi16(127), one = _mm512_set1_epi8(1);
  for (uint32_t r = 0; r < terms->rows; r++)
    for (uint32_t b = 0; b < blocks; b++) {
      const uint32_t at = r * blocks + b;
      const __m512 inverse = _mm512_set1_ps(w->inverses[at]);
      __m512i words[2], weights[TILE_REGISTERS];
      for (uint32_t i = 0; i < TILE_REGISTERS; i++) {
        /* cvtps rounds to nearest even, as the definition's addition does. Where the inverse is 0 the codes are 0, or
         * anything under a scale that is NaN. */
        const __m512 scaled = scaled_terms(terms->terms + r * terms->stride, scales[b], i, positions, whole);
        weights[i] = _mm512_cvtps_epi32(_mm512_mul_ps(scaled, inverse));
      }
      for (uint32_t i = 0; i < 2; i++) words[i] = _mm512_packs_epi32(weights[2 * i], weights[2 * i + 1]);
      __m512i high = _mm512_setzero_si512(), sum = high;
      if (fine[r]) {
        high = _mm512_packs_epi16(_mm512_srai_epi16(words[0], 7), _mm512_srai_epi16(words[1], 7));
        for (uint32_t i = 0; i < 2; i++) words[i] = _mm512_and_si512(words[i], bits);
        if (int4) sum = _mm512_slli_epi32(_mm512_dpbusd_epi32(sum, one, high), 7);
      }
      const __m512i low = _mm512_packs_epi16(words[0], words[1]);
      _mm512_storeu_si512(tiles[b].codes[0][r], low);
      _mm512_storeu_si512(tiles[b].codes[1][r], high);
      if (int4) w->registers[at] = _mm512_dpbusd_epi32(sum, one, low); /* 8 bits need no sum */
      tiles[b].scales[r] = w->scales[at];
    }
}

/* Rows of codes lie as packing leaves them: weight_place. */
static void weigh_tile(const mb_terms *terms, const float (*value_scales)[MB_KV_TILE], uint32_t positions,
                       tile_weights *tiles, uint32_t blocks, bool *fine, bool int4) {
  weighing w;
  const uint32_t count = terms->rows * blocks;
  float magnitudes[TILE_BLOCKS][MB_KV_TILE]; /* of the scales: those of 8 bits have no sign */
  for (uint32_t b = 0; b < blocks && int4; b++)
    for (uint32_t i = 0; i < positions; i += 16)
      _mm512_storeu_ps(magnitudes[b] + i, _mm512_abs_ps(_mm512_loadu_ps(value_scales[b] + i)));
  const float (*scales)[MB_KV_TILE] = int4 ? (const float (*)[MB_KV_TILE])magnitudes : value_scales;
  const bool whole = positions == MB_KV_TILE && find_largest(&w, terms, scales, positions, blocks, fine, true);
  if (!whole) find_largest(&w, terms, scales, positions, blocks, fine, false);
  for (uint32_t i = count; i < count + 3; i++) w.registers[i] = _mm512_setzero_si512(), w.largest[i] = 1;
  for (uint32_t i = 0; i < count; i += 4)
    scales_of_4(of_4_registers(w.registers + i, true), _mm_loadu_ps(w.largest + i), w.scales + i, w.inverses + i);
  if (whole)
    make_codes(&w, terms, value_scales, positions, tiles, blocks, fine, int4, true);
  else
    make_codes(&w, terms, value_scales, positions, tiles, blocks, fine, int4, false);
  if (!int4) return;
  int32_t sums[MOST_WEIGHTS];
  for (uint32_t i = 0; i < count; i += 4)
    _mm_storeu_si128((__m128i *)(void *)(sums + i), of_4_registers(w.registers + i, false));
  for (uint32_t r = 0; r < terms->rows; r++)
    for (uint32_t b = 0; b < blocks; b++) tiles[b].sums[r] = sums[r * blocks + b];
}

/* Where the codes of position i of the tile's group `group` and of the three behind it lie. */
MB_INLINE uint32_t weight_place(uint32_t group, uint32_t i) { return 4 * i + 4 * group; }

MB_INLINE void mix_tile(const tile_weights *tile, const uint8_t *values, size_t group_bytes, uint32_t positions,
                        float *out, size_t stride, uint32_t first, uint32_t rows, bool fine, bool int4) {
  __m512i sums[GROUP_ROWS][2]; /* of the lower and of the upper 16 dimensions */
  for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
  for (int part = fine; part >= 0; part--) {
    const uint8_t *v = values;
    for (uint32_t group = 0; group < positions / MB_KV_GROUP; group++, v += group_bytes)
      for (uint32_t i = 0; i < MB_KV_GROUP; i += 4) {
        const __m512i bytes = load_64_bytes(v + 16 * i);
        const __m512i v0 = int4 ? codes_4(bytes) : bytes;
        const __m512i v1 = int4 ? bytes : load_64_bytes(v + 16 * (MB_KV_GROUP + i));
        for (uint32_t r = 0; r < rows; r++) { /* the unsigned factor: values of 4 bits, weights of 8 */
          const __m512i w = broadcast_4_bytes(tile->codes[part][first + r] + weight_place(group, i));
          sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], int4 ? v0 : w, int4 ? w : v0);
          sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], int4 ? v1 : w, int4 ? w : v1);
        }
      }
    for (uint32_t r = 0; r < rows && part == 1; r++)
      for (int j = 0; j < 2; j++) sums[r][j] = _mm512_slli_epi32(sums[r][j], 7);
  }
  for (uint32_t r = 0; r < rows && int4; r++)
    sums[r][1] = _mm512_srai_epi32(_mm512_sub_epi32(sums[r][1], sums[r][0]), 4);
  for (uint32_t r = 0; r < rows; r++, out += stride)
    for (int j = 0; j < 2; j++) {
      const __m512i zeros = _mm512_set1_epi32(int4 ? MB_INT4_ZERO * tile->sums[first + r] : 0);
      const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][j], zeros)),
                                        _mm512_set1_ps(tile->scales[first + r]));
      _mm512_storeu_ps(out + 16 * j, _mm512_add_ps(_mm512_loadu_ps(out + 16 * j), part));
    }
}

#undef ZERO

#endif

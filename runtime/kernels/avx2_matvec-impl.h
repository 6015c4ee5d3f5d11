/* Decoding: one vector times a packed matrix, AVX2. Memory is read strictly forwards, one strip of 16 rows after the
 * other; a register holds eight rows x four columns, so no sum ever crosses lanes.
 *
 * A fragment of avx2.c. It defines multiply_vector() and multiply_vector_ahead(), which prefetches, for the strip
 * formats. */
#ifndef MB_KERNELS_AVX2_MATVEC_IMPL_H
#define MB_KERNELS_AVX2_MATVEC_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/avx2_trellis-impl.h"

/* int32 sums of the strip's rows 0..7 and 8..15. */
typedef struct {
  __m256i low, high;
} row_sums;

/* Hides that a loop count is a constant: gcc unrolls the loops of 2 and 8 bits completely otherwise, and the longer
 * code is 10 to 25 % slower. (3 and 4 bits gain from being unrolled.) */
MB_INLINE uint32_t not_constant(uint32_t n) {
  __asm__("" : "+r"(n));
  return n;
}

MB_INLINE __m256i dot_pair(__m256i codes0, __m256i x0, __m256i codes1, __m256i x1) {
  return _mm256_add_epi16(_mm256_maddubs_epi16(codes0, x0), _mm256_maddubs_epi16(codes1, x1));
}

/* `blocks` blocks of 2-bit codes, 16 columns each, times x, added to s FOUR times. With one shift instead of three:
 * bits 2-3 (and 6-7 after the shift) stay in place, worth 4, and have their own accumulators. They overflow first: a
 * block adds at most 2 * 2 * 4 * code * 127, so 8 blocks of ternary codes (<= 2) or 5 of codes <= 3 fit in 16 bits. */
MB_INLINE row_sums dot_2_bits(row_sums s, const uint8_t *p, const int8_t *x, uint32_t blocks, bool ahead) {
  const __m256i bits01 = _mm256_set1_epi8(3), bits23 = _mm256_set1_epi8(12);
  const __m256i one = _mm256_set1_epi16(1), four = _mm256_set1_epi16(4);
  __m256i a0 = _mm256_setzero_si256(), a1 = a0, b0 = a0, b1 = a0;
  for (; blocks > 0; blocks--, p += 64, x += 16) {
    prefetch_64(p, ahead);
    __m256i x0 = broadcast_4(x), x1 = broadcast_4(x + 4), x2 = broadcast_4(x + 8), x3 = broadcast_4(x + 12);
    __m256i q = load_bytes(p), h = _mm256_srli_epi16(q, 4);
    a0 = _mm256_add_epi16(a0, dot_pair(_mm256_and_si256(q, bits01), x0, _mm256_and_si256(h, bits01), x2));
    b0 = _mm256_add_epi16(b0, dot_pair(_mm256_and_si256(q, bits23), x1, _mm256_and_si256(h, bits23), x3));
    q = load_bytes(p + 32), h = _mm256_srli_epi16(q, 4);
    a1 = _mm256_add_epi16(a1, dot_pair(_mm256_and_si256(q, bits01), x0, _mm256_and_si256(h, bits01), x2));
    b1 = _mm256_add_epi16(b1, dot_pair(_mm256_and_si256(q, bits23), x1, _mm256_and_si256(h, bits23), x3));
  }
  s.low = _mm256_add_epi32(s.low, _mm256_add_epi32(_mm256_madd_epi16(a0, four), _mm256_madd_epi16(b0, one)));
  s.high = _mm256_add_epi32(s.high, _mm256_add_epi32(_mm256_madd_epi16(a1, four), _mm256_madd_epi16(b1, one)));
  return s;
}

MB_INLINE void ternary_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                              uint32_t row_end, bool ahead) {
  const __m256i sum = _mm256_set1_epi32(x->sums[0]);
  const __m256 scale = _mm256_set1_ps(x->scales[0]);
  uint32_t blocks = mb_ternary_blocks(w);
  size_t strip_bytes = (size_t)blocks * 64;
  for (uint32_t row = row_begin; row < row_end; row += MB_STRIP_ROWS) {
    const uint8_t *p = w->data + row / MB_STRIP_ROWS * strip_bytes;
    const int8_t *v = x->codes;
    row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (uint32_t left = blocks; left > 0;) {
      uint32_t now = left < 8 ? left : 8;
      s = dot_2_bits(s, p, v, now, ahead);
      left -= now, p += now * 64, v += now * 16;
    }
    /* sum of (code - 1) * q = sum of code * q - sum of q */
    __m256 low = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srai_epi32(s.low, 2), sum));
    __m256 high = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srai_epi32(s.high, 2), sum));
    __m256 scale_low = _mm256_set1_ps(w->scale), scale_high = scale_low;
    if (w->row_scales != NULL) {
      scale_low = _mm256_loadu_ps(w->row_scales + row);
      scale_high = _mm256_loadu_ps(w->row_scales + row + 8);
    }
    low = _mm256_mul_ps(_mm256_mul_ps(low, scale_low), scale);
    high = _mm256_mul_ps(_mm256_mul_ps(high, scale_high), scale);
    store_rows(y + row, low, high, w->rows - row);
  }
}

/* A whole group of 2-bit codes; widened every 64 columns. */
MB_INLINE row_sums group_2_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  if (columns == 32) {
    s = dot_2_bits(s, p, x, 2, ahead);
  } else {
    for (uint32_t c = 0; c < columns; c += 64) s = dot_2_bits(s, p + (size_t)c * 4, x + c, not_constant(4), ahead);
  }
  return (row_sums){_mm256_srai_epi32(s.low, 2), _mm256_srai_epi32(s.high, 2)};
}

/* Bit `from` of every byte moved to bit 2, over what the low two bits say. */
#define WITH_HIGH_BIT(low_bits, high, from)                                                           \
  _mm256_or_si256(_mm256_and_si256(low_bits, bits01),                                                 \
                  _mm256_and_si256((from) < 2 ? _mm256_slli_epi16(high, (from) < 2 ? 2 - (from) : 0)  \
                                              : _mm256_srli_epi16(high, (from) < 2 ? 0 : (from) - 2), \
                                   bit2))

/* 32 columns x 8 rows of 3-bit codes at p (both 16-column halves and the high plane); at most 8 * 2 * 7 * 127. */
MB_INLINE __m256i dot_3_bits(const uint8_t *p, const __m256i x[8]) {
  const __m256i bits01 = _mm256_set1_epi8(3), bit2 = _mm256_set1_epi8(4);
  __m256i q = load_bytes(p), r = load_bytes(p + 64), h = load_bytes(p + 128);
  __m256i s = dot_pair(WITH_HIGH_BIT(q, h, 0), x[0], WITH_HIGH_BIT(_mm256_srli_epi16(q, 2), h, 1), x[1]);
  __m256i t =
      dot_pair(WITH_HIGH_BIT(_mm256_srli_epi16(q, 4), h, 2), x[2], WITH_HIGH_BIT(_mm256_srli_epi16(q, 6), h, 3), x[3]);
  __m256i u = dot_pair(WITH_HIGH_BIT(r, h, 4), x[4], WITH_HIGH_BIT(_mm256_srli_epi16(r, 2), h, 5), x[5]);
  __m256i v =
      dot_pair(WITH_HIGH_BIT(_mm256_srli_epi16(r, 4), h, 6), x[6], WITH_HIGH_BIT(_mm256_srli_epi16(r, 6), h, 7), x[7]);
  return _mm256_add_epi16(_mm256_add_epi16(s, t), _mm256_add_epi16(u, v));
}

/* Widened every 64 columns: 16 * 2 * 7 * 127 = 28,448. */
MB_INLINE row_sums group_3_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i one = _mm256_set1_epi16(1);
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = 0; c < columns; c += 64) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (uint32_t i = c; i < c + 64 && i < columns; i += 32, p += 192, x += 32) {
      for (int j = 0; j < 192; j += 64) prefetch_64(p + j, ahead);
      __m256i v[8];
      for (int j = 0; j < 8; j++) v[j] = broadcast_4(x + 4 * j);
      a = _mm256_add_epi16(a, dot_3_bits(p, v));
      b = _mm256_add_epi16(b, dot_3_bits(p + 32, v));
    }
    s.low = _mm256_add_epi32(s.low, _mm256_madd_epi16(a, one));
    s.high = _mm256_add_epi32(s.high, _mm256_madd_epi16(b, one));
  }
  return s;
}

/* Widened every 32 columns: 8 * 2 * 15 * 127 = 30,480. */
MB_INLINE row_sums group_4_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i nibble = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = 0; c < columns; c += 32) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int k = 0; k < 4; k++, p += 64, x += 8) {
      prefetch_64(p, ahead);
      __m256i x0 = broadcast_4(x), x1 = broadcast_4(x + 4), q = load_bytes(p), r = load_bytes(p + 32);
      a = _mm256_add_epi16(
          a, dot_pair(_mm256_and_si256(q, nibble), x0, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble), x1));
      b = _mm256_add_epi16(
          b, dot_pair(_mm256_and_si256(r, nibble), x0, _mm256_and_si256(_mm256_srli_epi16(r, 4), nibble), x1));
    }
    s.low = _mm256_add_epi32(s.low, _mm256_madd_epi16(a, one));
    s.high = _mm256_add_epi32(s.high, _mm256_madd_epi16(b, one));
  }
  return s;
}

/* Twice or four times what the nibbles say (a shift of 16-bit words by `left`, or by `right` for the high nibbles), and
 * the code's lowest bits, which are moved down by `from`. */
#define CODES_5(nibbles, low, from) \
  _mm256_or_si256(_mm256_and_si256(nibbles, bits1_4), _mm256_and_si256(_mm256_srli_epi16(low, from), bit0))
#define CODES_6(nibbles, low, from) \
  _mm256_or_si256(_mm256_and_si256(nibbles, bits2_5), _mm256_and_si256(_mm256_srli_epi16(low, from), bits01))

/* 32 columns x 8 rows of 5-bit codes at p. 16 columns are at most 4 * 2 * 31 * 127 = 31,496, then widened. */
MB_INLINE __m256i dot_5_bits(const uint8_t *p, const __m256i x[8]) {
  const __m256i bits1_4 = _mm256_set1_epi8(30), bit0 = _mm256_set1_epi8(1), one = _mm256_set1_epi16(1);
  const __m256i q0 = load_bytes(p), q1 = load_bytes(p + 64), q2 = load_bytes(p + 128), q3 = load_bytes(p + 192);
  const __m256i low = load_bytes(p + 256);
  __m256i s =
      dot_pair(CODES_5(_mm256_slli_epi16(q0, 1), low, 0), x[0], CODES_5(_mm256_srli_epi16(q0, 3), low, 1), x[1]);
  __m256i t =
      dot_pair(CODES_5(_mm256_slli_epi16(q1, 1), low, 2), x[2], CODES_5(_mm256_srli_epi16(q1, 3), low, 3), x[3]);
  __m256i u =
      dot_pair(CODES_5(_mm256_slli_epi16(q2, 1), low, 4), x[4], CODES_5(_mm256_srli_epi16(q2, 3), low, 5), x[5]);
  __m256i v =
      dot_pair(CODES_5(_mm256_slli_epi16(q3, 1), low, 6), x[6], CODES_5(_mm256_srli_epi16(q3, 3), low, 7), x[7]);
  return _mm256_add_epi32(_mm256_madd_epi16(_mm256_add_epi16(s, t), one),
                          _mm256_madd_epi16(_mm256_add_epi16(u, v), one));
}

MB_INLINE row_sums group_5_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = 0; c < columns; c += 32, p += 320, x += 32) {
    for (int j = 0; j < 320; j += 64) prefetch_64(p + j, ahead);
    __m256i v[8];
    for (int j = 0; j < 8; j++) v[j] = broadcast_4(x + 4 * j);
    s.low = _mm256_add_epi32(s.low, dot_5_bits(p, v));
    s.high = _mm256_add_epi32(s.high, dot_5_bits(p + 32, v));
  }
  return s;
}

/* 16 columns x 8 rows of 6-bit codes at p. 8 columns are at most 2 * 2 * 63 * 127 = 32,004, then widened. */
MB_INLINE __m256i dot_6_bits(const uint8_t *p, const __m256i x[4]) {
  const __m256i bits2_5 = _mm256_set1_epi8(60), bits01 = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
  const __m256i q = load_bytes(p), r = load_bytes(p + 64), low = load_bytes(p + 128);
  __m256i s = dot_pair(CODES_6(_mm256_slli_epi16(q, 2), low, 0), x[0], CODES_6(_mm256_srli_epi16(q, 2), low, 2), x[1]);
  __m256i t = dot_pair(CODES_6(_mm256_slli_epi16(r, 2), low, 4), x[2], CODES_6(_mm256_srli_epi16(r, 2), low, 6), x[3]);
  return _mm256_add_epi32(_mm256_madd_epi16(s, one), _mm256_madd_epi16(t, one));
}

MB_INLINE row_sums group_6_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = 0; c < columns; c += 16, p += 192, x += 16) {
    for (int j = 0; j < 192; j += 64) prefetch_64(p + j, ahead);
    __m256i v[4];
    for (int j = 0; j < 4; j++) v[j] = broadcast_4(x + 4 * j);
    s.low = _mm256_add_epi32(s.low, dot_6_bits(p, v));
    s.high = _mm256_add_epi32(s.high, dot_6_bits(p + 32, v));
  }
  return s;
}

/* 16 columns x 8 rows of codes up to 31: at most 4 * 2 * 31 * 127 = 31,496, then widened. */
MB_INLINE __m256i dot_16_columns(const __m256i codes[4], const __m256i x[4]) {
  return _mm256_madd_epi16(
      _mm256_add_epi16(dot_pair(codes[0], x[0], codes[1], x[1]), dot_pair(codes[2], x[2], codes[3], x[3])),
      _mm256_set1_epi16(1));
}

MB_INLINE row_sums group_trellis_2(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i table = trellis_table(mb_trellis_2);
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = not_constant(columns); c > 0; c -= 16, p += 64, x += 16) {
    prefetch_64(p, ahead);
    const __m256i v[4] = {broadcast_4(x), broadcast_4(x + 4), broadcast_4(x + 8), broadcast_4(x + 12)};
    __m256i codes[4];
    trellis_codes_2(codes, table, p);
    s.low = _mm256_add_epi32(s.low, dot_16_columns(codes, v));
    trellis_codes_2(codes, table, p + 32);
    s.high = _mm256_add_epi32(s.high, dot_16_columns(codes, v));
  }
  return s;
}

MB_INLINE row_sums group_trellis_3(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i table = trellis_table(mb_trellis_3);
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = not_constant(columns); c > 0; c -= 32, p += 192) {
    for (int j = 0; j < 192; j += 64) prefetch_64(p + j, ahead);
    const __m256i planes[2] = {load_bytes(p + 128), load_bytes(p + 160)};
    for (int half = 0; half < 2; half++, x += 16) {
      const __m256i v[4] = {broadcast_4(x), broadcast_4(x + 4), broadcast_4(x + 8), broadcast_4(x + 12)};
      const uint8_t *pairs = p + 64 * half;
      __m256i codes[4];
      trellis_codes_3(codes, table, pairs, half_plane(planes[0], half));
      s.low = _mm256_add_epi32(s.low, dot_16_columns(codes, v));
      trellis_codes_3(codes, table, pairs + 32, half_plane(planes[1], half));
      s.high = _mm256_add_epi32(s.high, dot_16_columns(codes, v));
    }
  }
  return s;
}

MB_INLINE row_sums group_trellis_25(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i tables[2] = {trellis_table(mb_trellis_25[0]), trellis_table(mb_trellis_25[1])};
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = not_constant(columns); c > 0; c -= 64, p += 320) {
    for (int j = 0; j < 320; j += 64) prefetch_64(p + j, ahead);
    const __m256i planes[2] = {load_bytes(p + 256), load_bytes(p + 288)};
    UNROLL_4
    for (int block = 0; block < 4; block++, x += 16) {
      const __m256i v[4] = {broadcast_4(x), broadcast_4(x + 4), broadcast_4(x + 8), broadcast_4(x + 12)};
      __m256i codes[4];
      trellis_codes_25(codes, tables, p + 64 * block, quarter_plane(planes[0], block));
      s.low = _mm256_add_epi32(s.low, dot_16_columns(codes, v));
      trellis_codes_25(codes, tables, p + 64 * block + 32, quarter_plane(planes[1], block));
      s.high = _mm256_add_epi32(s.high, dot_16_columns(codes, v));
    }
  }
  return s;
}

/* Both factors are signed: |x| times w with x's sign. A pair, at most 2 * 127 * 127, just fits and is widened at once.
 */
MB_INLINE row_sums group_8_bits(const uint8_t *p, const int8_t *x, uint32_t columns, bool ahead) {
  const __m256i one = _mm256_set1_epi16(1);
  row_sums s = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (uint32_t c = not_constant(columns); c > 0; c -= 4, p += 64, x += 4) {
    prefetch_64(p, ahead);
    __m256i v = broadcast_4(x), magnitude = _mm256_abs_epi8(v);
    __m256i low = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(load_bytes(p), v));
    __m256i high = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(load_bytes(p + 32), v));
    s.low = _mm256_add_epi32(s.low, _mm256_madd_epi16(low, one));
    s.high = _mm256_add_epi32(s.high, _mm256_madd_epi16(high, one));
  }
  return s;
}

#include "kernels/avx2_sign-impl.h"

/* Inlined into one function per combination below: the last four are constants there, but for the group of
 * trellis codes and of scales of one byte. flags: of the matrix. */
MB_INLINE void affine_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                             uint32_t row_end, uint32_t bits, uint32_t flags, uint32_t group, bool ahead) {
  const bool asymmetric = (flags & MB_FLAG_ASYMMETRIC) != 0;
  const size_t head = mb_record_head_bytes(flags), record = head + mb_code_bytes(bits, group);
  const int32_t offset = asymmetric ? 0 : mb_symmetric_offset(bits);
  const __m256 scale = _mm256_set1_ps(w->scale);
  uint32_t groups = mb_round_up(w->columns, group) / group;
  for (uint32_t row = row_begin; row < row_end; row += MB_STRIP_ROWS) {
    const uint8_t *p = w->data + (size_t)(row / MB_STRIP_ROWS) * groups * record;
    const int8_t *v = x->codes;
    __m256 low = _mm256_setzero_ps(), high = low;
    for (uint32_t g = 0; g < groups; g++, p += record, v += group) {
      row_sums s = bits == 2               ? group_2_bits(p + head, v, group, ahead)
                   : bits == 3             ? group_3_bits(p + head, v, group, ahead)
                   : bits == 4             ? group_4_bits(p + head, v, group, ahead)
                   : bits == 5             ? group_5_bits(p + head, v, group, ahead)
                   : bits == 6             ? group_6_bits(p + head, v, group, ahead)
                   : bits == 8             ? group_8_bits(p + head, v, group, ahead)
                   : bits == MB_TRELLIS_2  ? group_trellis_2(p + head, v, group, ahead)
                   : bits == MB_TRELLIS_25 ? group_trellis_25(p + head, v, group, ahead)
                                           : group_trellis_3(p + head, v, group, ahead);
      if (offset != 0) {
        __m256i bias = _mm256_set1_epi32(offset * x->sums[g]);
        s = (row_sums){_mm256_sub_epi32(s.low, bias), _mm256_sub_epi32(s.high, bias)};
      }
      __m256 t_low = _mm256_cvtepi32_ps(s.low), t_high = _mm256_cvtepi32_ps(s.high);
      if (mb_has_zeros(flags)) {
        const __m256 sum = _mm256_set1_ps((float)x->sums[g]);
        t_low = less_zeros(t_low, load_8_zeros(p, 0), sum, bits);
        t_high = less_zeros(t_high, load_8_zeros(p, 1), sum, bits);
      }
      t_low = _mm256_mul_ps(t_low, load_8_scales(p, 0, flags));
      t_high = _mm256_mul_ps(t_high, load_8_scales(p, 1, flags));
      if (asymmetric && !mb_has_zeros(flags)) {
        __m256 sum = _mm256_set1_ps((float)x->sums[g]);
        t_low = _mm256_add_ps(t_low, _mm256_mul_ps(sum, load_8_f16(p + 32)));
        t_high = _mm256_add_ps(t_high, _mm256_mul_ps(sum, load_8_f16(p + 48)));
      }
      __m256 x_scale = _mm256_set1_ps(x->scales[g]);
      low = _mm256_add_ps(low, _mm256_mul_ps(t_low, x_scale));
      high = _mm256_add_ps(high, _mm256_mul_ps(t_high, x_scale));
    }
    store_rows(y + row, _mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale), w->rows - row);
  }
}

#define AFFINE(name, bits, group, ahead)                                                                         \
  static void name##_##bits##_##group(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                      uint32_t row_end) {                                                        \
    if (mb_is_asymmetric(w))                                                                                     \
      affine_vector(w, x, y, row_begin, row_end, bits, MB_FLAG_ASYMMETRIC, group, ahead);                        \
    else                                                                                                         \
      affine_vector(w, x, y, row_begin, row_end, bits, 0, group, ahead);                                         \
  }
/* Scales of one byte, and trellis codes below, gain nothing from a group that is a constant. */
#define BYTE_SCALES(name, bits, ahead)                                                                      \
  static void name##_e4m4_##bits(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                 uint32_t row_end) {                                                        \
    affine_vector(w, x, y, row_begin, row_end, bits, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4, w->group, ahead);   \
  }
#define TRELLIS(name, bits, ahead)                                                                             \
  static void name##_trellis_##bits(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                    uint32_t row_end) {                                                        \
    if (w->flags & MB_FLAG_E4M4)                                                                               \
      affine_vector(w, x, y, row_begin, row_end, MB_TRELLIS_##bits, MB_FLAG_E4M4, w->group, ahead);            \
    else                                                                                                       \
      affine_vector(w, x, y, row_begin, row_end, MB_TRELLIS_##bits, 0, w->group, ahead);                       \
  }
#define AFFINE_GROUPS(name, bits, ahead) \
  AFFINE(name, bits, 32, ahead) AFFINE(name, bits, 64, ahead) AFFINE(name, bits, 128, ahead)
#define MULTIPLY_VECTOR(name, affine, ahead)                                                                      \
  AFFINE_GROUPS(affine, 2, ahead)                                                                                 \
  AFFINE_GROUPS(affine, 3, ahead)                                                                                 \
  AFFINE_GROUPS(affine, 4, ahead)                                                                                 \
  AFFINE_GROUPS(affine, 8, ahead)                                                                                 \
  AFFINE_GROUPS(affine, 5, ahead)                                                                                 \
  AFFINE_GROUPS(affine, 6, ahead)                                                                                 \
  BYTE_SCALES(affine, 3, ahead)                                                                                   \
  BYTE_SCALES(affine, 4, ahead)                                                                                   \
  BYTE_SCALES(affine, 5, ahead)                                                                                   \
  BYTE_SCALES(affine, 6, ahead)                                                                                   \
  TRELLIS(affine, 2, ahead)                                                                                       \
  TRELLIS(affine, 25, ahead)                                                                                      \
  TRELLIS(affine, 3, ahead)                                                                                       \
  static void name(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) { \
    typedef void (*kernel)(const mb_matrix *, const mb_activations *, float *, uint32_t, uint32_t);               \
    static const kernel kernels[6][3] = {                                                                         \
        {affine##_2_32, affine##_2_64, affine##_2_128}, {affine##_3_32, affine##_3_64, affine##_3_128},           \
        {affine##_4_32, affine##_4_64, affine##_4_128}, {affine##_8_32, affine##_8_64, affine##_8_128},           \
        {affine##_5_32, affine##_5_64, affine##_5_128}, {affine##_6_32, affine##_6_64, affine##_6_128}};          \
    static const kernel byte_scales[6] = {NULL, affine##_e4m4_3, affine##_e4m4_4,                                 \
                                          NULL, affine##_e4m4_5, affine##_e4m4_6};                                \
    if (w->format == MB_FORMAT_TERNARY2)                                                                          \
      ternary_vector(w, x, y, row_begin, row_end, ahead);                                                         \
    else if (w->format == MB_FORMAT_SIGN1)                                                                        \
      sign_vector(w, x, y, row_begin, row_end, ahead);                                                            \
    else if (w->format == MB_FORMAT_TRELLIS2)                                                                     \
      affine##_trellis_2(w, x, y, row_begin, row_end);                                                            \
    else if (w->format == MB_FORMAT_TRELLIS25)                                                                    \
      affine##_trellis_25(w, x, y, row_begin, row_end);                                                           \
    else if (w->format == MB_FORMAT_TRELLIS3)                                                                     \
      affine##_trellis_3(w, x, y, row_begin, row_end);                                                            \
    else if (w->flags & MB_FLAG_E4M4)                                                                             \
      byte_scales[mb_strip_format(w->format) - 1](w, x, y, row_begin, row_end);                                   \
    else                                                                                                          \
      kernels[mb_strip_format(w->format) - 1][w->group / 64](w, x, y, row_begin, row_end);                        \
  }
MULTIPLY_VECTOR(multiply_vector, affine, false)
MULTIPLY_VECTOR(multiply_vector_ahead, affine_ahead, true)

#endif

/* The loops of decoding MB_FORMAT_SIGN1, for AVX2 and AVX-512 alike.
 *
 * A fragment of avx2_sign-impl.h and avx512_sign-impl.h. Define before it is included:
 *   sign_tables(tables, x, columns)  the tables of a tile's activations, 8 bytes a column
 *   sign_strip(sums, p, tables, totals, scales, groups, group, ahead)
 *                                    adds `groups` groups of the strip at p to the strip's 16 sums; totals: of each
 *                                    group the sum of |x|, negated
 * It defines sign_vector(). */
#ifndef MB_KERNELS_AVX2_SIGN_TILES_IMPL_H
#define MB_KERNELS_AVX2_SIGN_TILES_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/sign_layout.h"

/* Of every group of `columns` activations the sum of |x|, negated: what is added to 2 * V (sign_layout.h). */
static void sign_totals(int32_t *totals, const int8_t *x, uint32_t columns, uint32_t group) {
  for (uint32_t c = 0; c < columns; c += group) {
    __m256i s = _mm256_setzero_si256();
    for (uint32_t i = c; i < c + group; i += 32)
      s = _mm256_sub_epi64(s, _mm256_sad_epu8(_mm256_abs_epi8(load_bytes(x + i)), _mm256_setzero_si256()));
    const __m128i t = _mm_add_epi64(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    *totals++ = _mm_cvtsi128_si32(_mm_add_epi64(t, _mm_unpackhi_epi64(t, t)));
  }
}

MB_INLINE void sign_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end,
                           bool ahead) {
  _Alignas(64) uint8_t tables[MB_SIGN_TILE * 8];
  _Alignas(64) float sums[MB_SIGN_ROWS];
  int32_t totals[MB_SIGN_TILE / 32];
  const uint32_t columns = mb_round_up(w->columns, w->group);
  const size_t strip_bytes = mb_affine_strip_bytes(w), record = mb_record_bytes(w);
  for (uint32_t first = row_begin; first < row_end; first += MB_SIGN_ROWS) {
    const uint32_t rows = row_end - first < MB_SIGN_ROWS ? row_end - first : MB_SIGN_ROWS;
    memset(sums, 0, sizeof sums);
    for (uint32_t c = 0; c < columns; c += MB_SIGN_TILE) {
      const uint32_t width = columns - c < MB_SIGN_TILE ? columns - c : MB_SIGN_TILE, groups = width / w->group;
      const uint8_t *p = w->data + first / MB_STRIP_ROWS * strip_bytes + c / w->group * record;
      const float *scales = x->scales + c / w->group;
      sign_tables(tables, x->codes + c, width);
      sign_totals(totals, x->codes + c, width, w->group);
      for (uint32_t r = 0; r < rows; r += MB_STRIP_ROWS, p += strip_bytes)
        if (w->group == 128)
          sign_strip(sums + r, p, tables, totals, scales, groups, 128, ahead);
        else if (w->group == 64)
          sign_strip(sums + r, p, tables, totals, scales, groups, 64, ahead);
        else
          sign_strip(sums + r, p, tables, totals, scales, groups, 32, ahead);
    }
    for (uint32_t r = 0; r < rows; r++) y[first + r] = sums[r] * w->scale;
  }
}

#endif

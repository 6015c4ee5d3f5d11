/* MB_FORMAT_VECTOR for both NEON tables: the products; see vector_rows-impl.h.
 *
 * A fragment of neon_multiply-impl.h, whose dot_panel() prefill uses. It defines multiply_vector_codes(). */
#ifndef MB_KERNELS_NEON_VECTOR_IMPL_H
#define MB_KERNELS_NEON_VECTOR_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/vector_rows-impl.h"

/* ---- entries to registers ---- */

MB_INLINE int8x16_t entries_4_by_4(const int8_t *codebook, const uint32_t index[4]) {
  const int32_t *entries = (const int32_t *)(const void *)codebook; /* blobs and their sections are aligned */
  int32x4_t q = vdupq_n_s32(0);
  q = vld1q_lane_s32(entries + index[0], q, 0);
  q = vld1q_lane_s32(entries + index[1], q, 1);
  q = vld1q_lane_s32(entries + index[2], q, 2);
  return vreinterpretq_s8_s32(vld1q_lane_s32(entries + index[3], q, 3));
}

/* Registers that eight entries of `stride` bytes fill. */
#define REGISTERS(stride) ((stride) / 2)

/* Register k of them. */
MB_INLINE int8x16_t load_entries(const int8_t *codebook, const uint32_t index[8], uint32_t k, uint32_t stride) {
  if (stride == 4) return entries_4_by_4(codebook, index + 4 * k);
  if (stride == 8)
    return vcombine_s8(vld1_s8(codebook + (size_t)index[2 * k] * 8), vld1_s8(codebook + (size_t)index[2 * k + 1] * 8));
  return vld1q_s8(codebook + (size_t)index[k] * 16);
}

/* ---- one vector ---- */

/* The next loop completely: its four sums then stay in registers. */
#if defined(__clang__)
#define UNROLL_QUAD _Pragma("unroll")
#else
#define UNROLL_QUAD _Pragma("GCC unroll 4")
#endif

/* Two products of int8 codes in [-127, 127] fit in 16 bits. */
MB_INLINE int32x4_t add_products(int32x4_t sums, int8x16_t q, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sums, q, x);
#elif defined(__aarch64__)
  return vpadalq_s16(sums, vmlal_high_s8(vmull_s8(vget_low_s8(q), vget_low_s8(x)), q, x));
#else
  return vpadalq_s16(sums, vmlal_s8(vmull_s8(vget_low_s8(q), vget_low_s8(x)), vget_high_s8(q), vget_high_s8(x)));
#endif
}

MB_INLINE void dot_quad(int32_t sums[QUAD], row_quad *four, const mb_vector_parts *parts, const int8_t *x,
                        uint32_t blocks, uint32_t stride, bool residual, uint32_t bits) {
  const int8_t *const codebook = parts->codebook, *const residual_codebook = parts->residual_codebook;
  const uint32_t residual_bits = parts->residual_bits;
  row_quad at = *four; /* which the compiler knows that nothing else points at */
  int32x4_t s[QUAD];
  for (int i = 0; i < QUAD; i++) s[i] = vdupq_n_s32(0);
  for (; blocks > 0; blocks--, x += 8 * stride) {
    int8x16_t v[REGISTERS(16)];
    for (uint32_t k = 0; k < REGISTERS(stride); k++) v[k] = vld1q_s8(x + 16 * k);
    UNROLL_QUAD
    for (int i = 0; i < QUAD; i++) {
      uint32_t index[8], second[8];
      read_8_indices(index, at.p[i], bits);
      at.p[i] += bits;
      if (residual) {
        read_8_indices(second, at.residual[i], residual_bits);
        at.residual[i] += residual_bits;
      }
      for (uint32_t k = 0; k < REGISTERS(stride); k++) {
        int8x16_t q = load_entries(codebook, index, k, stride);
        if (residual) q = vaddq_s8(q, load_entries(residual_codebook, second, k, stride));
        s[i] = add_products(s[i], q, v[k]);
      }
    }
  }
  *four = at;
  vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), pairwise_add(pairwise_add(s[0], s[1]), pairwise_add(s[2], s[3]))));
}

/* ---- many vectors ---- */

/* A tile of a strip's codes, [columns / 4][16 rows][4]. */
static void write_strip(int8_t *tile, const mb_matrix *w, uint32_t row, uint32_t begin, uint32_t end) {
  int8_t rows[MB_STRIP_ROWS][WRITTEN_STRIDE];
  memset(rows, 0, sizeof rows); /* the last four columns are read whole */
  write_rows(rows, w, row, begin, end);
  for (uint32_t c = 0; c < end - begin; c += 4)
    for (uint32_t r = 0; r < MB_STRIP_ROWS; r++, tile += 4) memcpy(tile, rows[r] + c, 4);
}

static void code_tile(const mb_tile *t) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, first = t->first, vectors = t->vectors;
  int8_t tile[CODE_COLUMNS * MB_STRIP_ROWS];
  strip_sums whole[PANEL_VECTORS];
  float32x4_t sums[PANEL_VECTORS][4];
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t step = tile_columns(w->vector.length);
  memset(whole, 0, sizeof whole);
  memset(sums, 0, sizeof sums);
  for (uint32_t c = 0; c < w->columns; c += step) {
    const uint32_t end = w->columns - c < step ? w->columns : c + step;
    write_strip(tile, w, row, c, end);
    for (uint32_t n = 0; n < vectors; n += 4) {
      strip_sums part[4];
      dot_panel(part, tile, x->panel + c / 4 * panel_row + (size_t)(first + n) * 4, panel_row, mb_round_up(end - c, 4),
                STEPS(127));
      for (uint32_t i = 0; i < 4 && n + i < vectors; i++) {
        const float *scales = x->scales + (size_t)(first + n + i) * x->groups;
        const float32x4_t scale = vdupq_n_f32(scales[x->group != 0 ? c / CODE_COLUMNS : 0]);
        for (int j = 0; j < 4; j++) {
          int32x4_t *s = &whole[n + i].rows[j];
          *s = vaddq_s32(*s, part[i].rows[j]);
          if (x->group == 0 && end < w->columns) continue; /* one scale for all columns */
          sums[n + i][j] = vaddq_f32(sums[n + i][j], vmulq_f32(vcvtq_f32_s32(*s), scale));
          *s = vdupq_n_s32(0);
        }
      }
    }
  }
  const uint8_t *d = w->vector.row_scales + 2 * (size_t)row; /* of a whole strip: the section fills 64 bytes */
  for (int j = 0; j < 4; j++) {
    const float32x4_t scale = vmulq_f32(load_4_f16(d + 8 * j), vdupq_n_f32(w->scale));
    for (uint32_t n = 0; n < vectors; n++) sums[n][j] = vmulq_f32(sums[n][j], scale);
  }
  for (uint32_t n = 0; n < vectors; n++) store_rows(t->y + (first + n) * t->y_stride + row, sums[n], w->rows - row);
}

static void multiply_vector_codes(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride,
                                  uint32_t row_begin, uint32_t row_end) {
  const uint32_t last = mb_last_row(w, row_end);
  const mb_tile whole = {.w = w, .x = x, .y = y, .y_stride = y_stride, .row = row_begin};
  if (x->count == 1)
    multiply_codes_by_vector(w, x, y, row_begin, last);
  else
    mb_each_tile(&whole, last, 1, PANEL_VECTORS, code_tile);
}

#endif

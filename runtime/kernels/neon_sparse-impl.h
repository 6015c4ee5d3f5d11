/* MB_FORMAT_SPARSE_TERNARY for both NEON tables.
 *
 * Decoding looks sums up instead of multiplying. A group of four activations has 16 sums, one per nibble; a look-up
 * answers for 16 rows. How the sums are held and negated is said in sparse_digits.h. The tables of a tile of columns
 * are built anew by every call.
 *
 * A fragment of neon_multiply-impl.h, whose dot_panel() prefill uses. It defines multiply_sparse(). */
#ifndef MB_KERNELS_NEON_SPARSE_IMPL_H
#define MB_KERNELS_NEON_SPARSE_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/sparse_digits.h"
#include "packed/sparse_layout.h"

#define SPARSE_ROWS 1024 /* whose sums are kept while the tiles of columns pass */

/* Unroll the next loop completely: what depends on the number of the group becomes a constant. */
#if defined(__clang__)
#define UNROLL_8 _Pragma("unroll 8")
#else
#define UNROLL_8 _Pragma("GCC unroll 8")
#endif

/* The signs of group `group` of a block (bit 7 - group) as masks of eight bits. */
MB_INLINE uint8x16_t sign_mask(uint8x16_t signs, uint32_t group) {
  return vtstq_u8(signs, vdupq_n_u8((uint8_t)(128u >> group)));
}

MB_INLINE uint8x16_t group_nibbles(uint8x16_t q, uint32_t group) {
  return group % 2 == 0 ? vandq_u8(q, vdupq_n_u8(15)) : vshrq_n_u8(q, 4);
}

/* ---- decoding: one vector ---- */

/* A word of 16 bits in a table's index. */
#define WORD(i) 2 * (i), 2 * (i) + 1
/* Where the nibbles 0..7 find a term: the four words are those for the zero at position 0..3, and `group` says which
 * of a register's two groups is meant. Nibbles 8..15 differ in the sign of the third term alone. */
#define TERM(group, z0, z1, z2, z3)                                                                           \
  {                                                                                                           \
      WORD(4 * (group) + (z0)), WORD(4 * (group) + (z1)), WORD(4 * (group) + (z2)), WORD(4 * (group) + (z3)), \
      WORD(4 * (group) + (z0)), WORD(4 * (group) + (z1)), WORD(4 * (group) + (z2)), WORD(4 * (group) + (z3)), \
  }

/* The tables of `columns` (a multiple of 8) activations: 16 low and 16 high digits per group. */
static void sparse_tables(int8_t *tables, const int8_t *x, uint32_t columns) {
  static const uint8_t first[2][16] = {TERM(0, 1, 0, 0, 0), TERM(1, 1, 0, 0, 0)};
  static const uint8_t second[2][16] = {TERM(0, 2, 2, 1, 1), TERM(1, 2, 2, 1, 1)};
  static const uint8_t third[2][16] = {TERM(0, 3, 3, 3, 2), TERM(1, 3, 3, 3, 2)};
  static const int16_t second_sign[8] = {1, 1, 1, 1, -1, -1, -1, -1};
  const int16x8_t sign = vld1q_s16(second_sign), half = vdupq_n_s16(MB_SPARSE_BASE / 2);
  for (uint32_t c = 0; c < columns; c += 8) {
    const uint8x16_t v = vreinterpretq_u8_s16(vmovl_s8(vld1_s8(x + c)));
    for (int g = 0; g < 2; g++, tables += 32) {
      const int16x8_t a = vaddq_s16(vreinterpretq_s16_u8(look_up(v, vld1q_u8(first[g]))), half);
      const int16x8_t two = vmlaq_s16(a, vreinterpretq_s16_u8(look_up(v, vld1q_u8(second[g]))), sign);
      const int16x8_t last = vreinterpretq_s16_u8(look_up(v, vld1q_u8(third[g])));
      const int16x8_t plus = vaddq_s16(two, last), minus = vsubq_s16(two, last); /* S + BASE / 2 */
      const int8x16_t high =
          vcombine_s8(vshrn_n_s16(plus, MB_SPARSE_BASE_BITS), vshrn_n_s16(minus, MB_SPARSE_BASE_BITS));
      const int8x16_t sums = vcombine_s8(vmovn_s16(plus), vmovn_s16(minus));
      const int8x16_t low = vandq_s8(sums, vdupq_n_s8(MB_SPARSE_BASE - 1));
      vst1q_s8(tables, vsubq_s8(low, vdupq_n_s8(MB_SPARSE_BASE / 2)));
      vst1q_s8(tables + 16, high);
    }
  }
}
#undef TERM
#undef WORD

/* Adds the products of a strip's 32 rows in one tile to `sums`. */
static void sparse_strip(int32_t *sums, const uint8_t *p, const int8_t *tables, uint32_t blocks) {
  const int32_t *negated = (const int32_t *)(const void *)p; /* a payload is aligned to 4 bytes */
  for (int i = 0; i < MB_SPARSE_STRIP_ROWS; i += 4)
    vst1q_s32(sums + i, vmlaq_n_s32(vld1q_s32(sums + i), vld1q_s32(negated + i), MB_SPARSE_CORRECTION));
  for (p += MB_SPARSE_HEAD; blocks > 0;) {
    uint32_t now = blocks < MB_SPARSE_EXACT_BLOCKS ? blocks : MB_SPARSE_EXACT_BLOCKS;
    int16x8_t total[4];
    for (int j = 0; j < 4; j++) total[j] = vdupq_n_s16(0);
    blocks -= now;
    for (; now > 0; now--, p += MB_SPARSE_BLOCK, tables += 256) {
      const uint8x16_t signs[2] = {vld1q_u8(p + 128), vld1q_u8(p + 144)};
      int8x16_t low[2], high[2];
      for (int j = 0; j < 2; j++) low[j] = high[j] = vdupq_n_s8(0);
      UNROLL_8
      for (uint32_t g = 0; g < 8; g++) {
        const uint8x16_t low_table = vreinterpretq_u8_s8(vld1q_s8(tables + 32 * g));
        const uint8x16_t high_table = vreinterpretq_u8_s8(vld1q_s8(tables + 32 * g + 16));
        for (int j = 0; j < 2; j++) {
          const uint8x16_t index = group_nibbles(vld1q_u8(p + g / 2 * 32 + 16 * j), g);
          const uint8x16_t negate = sign_mask(signs[j], g);
          low[j] = vaddq_s8(low[j], vreinterpretq_s8_u8(veorq_u8(negate, look_up(low_table, index))));
          high[j] = vaddq_s8(high[j], vreinterpretq_s8_u8(veorq_u8(negate, look_up(high_table, index))));
        }
      }
      for (int j = 0; j < 2; j++) {
        const int8x8_t base = vdup_n_s8(MB_SPARSE_BASE);
        total[2 * j] = vmlal_s8(vaddw_s8(total[2 * j], vget_low_s8(low[j])), vget_low_s8(high[j]), base);
        total[2 * j + 1] = vmlal_s8(vaddw_s8(total[2 * j + 1], vget_high_s8(low[j])), vget_high_s8(high[j]), base);
      }
    }
    for (int j = 0; j < 4; j++) {
      int32_t *to = sums + 8 * j;
      vst1q_s32(to, vaddw_s16(vld1q_s32(to), vget_low_s16(total[j])));
      vst1q_s32(to + 4, vaddw_s16(vld1q_s32(to + 4), vget_high_s16(total[j])));
    }
  }
}

/* y = (S * s) * scale of vector n, for 16 rows. */
MB_INLINE void finish_sparse(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row,
                             const int32x4_t sums[4], float *y) {
  float32x4_t out[4];
  for (int j = 0; j < 4; j++) {
    const float32x4_t s = w->row_scales != NULL ? vld1q_f32(w->row_scales + row + 4 * j) : vdupq_n_f32(w->scale);
    out[j] = vmulq_f32(vmulq_f32(vcvtq_f32_s32(sums[j]), s), vdupq_n_f32(x->scales[n]));
  }
  store_rows(y + row, out, w->rows - row);
}

static void sparse_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  int8_t tables[MB_SPARSE_TILE / 4 * 32];
  int32_t sums[SPARSE_ROWS];
  for (uint32_t first = row_begin / MB_SPARSE_STRIP_ROWS * MB_SPARSE_STRIP_ROWS; first < row_end;
       first += SPARSE_ROWS) {
    const uint32_t rows = row_end - first < SPARSE_ROWS ? row_end - first : SPARSE_ROWS;
    memset(sums, 0, sizeof sums);
    for (uint32_t tile = 0; tile < mb_sparse_tiles(w->columns); tile++) {
      const uint32_t columns = mb_sparse_tile_columns(w->columns, tile);
      const uint8_t *p = mb_sparse_strip(w, tile, first);
      sparse_tables(tables, x->codes + (size_t)tile * MB_SPARSE_TILE, columns);
      for (uint32_t r = 0; r < rows; r += MB_SPARSE_STRIP_ROWS, p += mb_sparse_strip_bytes(columns))
        sparse_strip(sums + r, p, tables, columns / 32);
    }
    for (uint32_t r = 0; r < rows; r += MB_STRIP_ROWS) {
      int32x4_t strip[4];
      for (int j = 0; j < 4; j++) strip[j] = vld1q_s32(sums + r + 4 * j);
      if (first + r >= row_begin) /* the range may begin or end in the middle of a strip of 32 */
        finish_sparse(w, x, 0, first + r, strip, y);
    }
  }
}

/* ---- prefill: many vectors ---- */

/* Whole blocks of 16 rows (`p` points at the first of them) to [columns / 4][16 rows][4] int8. */
static void unpack_sparse(int8_t *tile, const uint8_t *p, uint32_t columns) {
  /* t of each nibble, column by column of the group: bits 2 and 3 are the signs of the second and third non-zero */
  static const int8_t t[4][16] = {{0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1},
                                  {1, 0, 1, 1, 1, 0, -1, -1, 1, 0, 1, 1, 1, 0, -1, -1},
                                  {1, 1, 0, 1, -1, -1, 0, 1, 1, 1, 0, -1, -1, -1, 0, -1},
                                  {1, 1, 1, 0, 1, 1, 1, 0, -1, -1, -1, 0, -1, -1, -1, 0}};
  for (uint32_t c = 0; c < columns; c += 32, p += MB_SPARSE_BLOCK) {
    const uint8x16_t signs = vld1q_u8(p + 128);
    UNROLL_8
    for (uint32_t g = 0; g < 8; g++, tile += 64) {
      const uint8x16_t index = group_nibbles(vld1q_u8(p + g / 2 * 32), g), negate = sign_mask(signs, g);
      int8x16x4_t codes;
      for (int i = 0; i < 4; i++) {
        const uint8x16_t value = look_up(vreinterpretq_u8_s8(vld1q_s8(t[i])), index);
        codes.val[i] = vreinterpretq_s8_u8(vsubq_u8(veorq_u8(value, negate), negate)); /* -v = ~v + 1 */
      }
      vst4q_s8(tile, codes);
    }
  }
}

static void sparse_panel(const mb_tile *t) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, first = t->first, vectors = t->vectors;
  int8_t codes[TERNARY_COLUMNS * MB_STRIP_ROWS];
  strip_sums sums[PANEL_VECTORS];
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const int8_t *panel = x->panel + (size_t)first * 4;
  memset(sums, 0, sizeof sums);
  for (uint32_t tile = 0; tile < mb_sparse_tiles(w->columns); tile++) {
    const uint32_t columns = mb_sparse_tile_columns(w->columns, tile);
    const uint8_t *p = mb_sparse_strip(w, tile, row) + MB_SPARSE_HEAD + row % MB_SPARSE_STRIP_ROWS;
    for (uint32_t c = 0, width; c < columns; c += width, panel += width / 4 * panel_row) {
      width = columns - c < TERNARY_COLUMNS ? columns - c : TERNARY_COLUMNS;
      unpack_sparse(codes, p + c / 32 * MB_SPARSE_BLOCK, width);
      for (uint32_t n = 0; n < vectors; n += 4) {
        strip_sums part[4];
        dot_panel(part, codes, panel + (size_t)n * 4, panel_row, width, STEPS(2));
        for (int i = 0; i < 4; i++)
          for (int j = 0; j < 4; j++) sums[n + i].rows[j] = vaddq_s32(sums[n + i].rows[j], part[i].rows[j]);
      }
    }
  }
  for (uint32_t n = 0; n < vectors; n++)
    finish_sparse(w, x, first + n, row, sums[n].rows, t->y + (first + n) * t->y_stride);
}

static void multiply_sparse(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                            uint32_t row_end) {
  const uint32_t end = mb_last_row(w, row_end);
  const mb_tile whole = {.w = w, .x = x, .y = y, .y_stride = y_stride, .row = row_begin};
  if (x->count == 1)
    sparse_vector(w, x, y, row_begin, end);
  else
    mb_each_tile(&whole, end, 1, PANEL_VECTORS, sparse_panel);
}

#endif

/* Matrix products for both NEON tables.
 *
 * A fragment of neon.c and neon_dotprod.c, which say how codes and activations are multiplied ("quad": 16 bytes of
 * codes, four rows x four columns). Define before it is included:
 *   quad           running sums of a quad's four rows, exact for so many steps of four columns:
 *   STEPS(largest) for codes up to `largest`
 *   quad_zero(), quad_dot(sums, codes, x): x holds the same four columns four times (broadcast_4)
 *   columns_16     16 columns of a vector; columns_load(x), quad_dot_lane(sums, codes, columns, lane): four of them
 *   quad_dot_panel(sums[4], codes, x): x holds four columns of four vectors
 *   quad_sums, quad_sums_zero(), quad_add(sums, quad), quad_rows(sums): the 32-bit totals and their four rows
 *   PANEL_QUADS    quads whose running sums for four vectors fit in the registers
 * It defines multiply(), the table's entry. */
#ifndef MB_KERNELS_NEON_MULTIPLY_IMPL_H
#define MB_KERNELS_NEON_MULTIPLY_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/neon_dense-impl.h"
#include "kernels/tile.h"

#define PANEL_VECTORS 64    /* more vectors go through in several passes */
#define TERNARY_COLUMNS 256 /* of an unpacked tile */

/* 32-bit sums of a strip's rows. */
typedef struct {
  int32x4_t rows[4];
} strip_sums;

MB_INLINE uint32_t largest_code(uint32_t bits, bool ternary) {
  return ternary || bits == 1 ? 2 : bits == 8 ? 127 : bits > MB_TRELLIS ? 31 : (1u << bits) - 1;
}

MB_INLINE int8x16_t low_bits(uint8x16_t q, uint8_t mask) { return vreinterpretq_s8_u8(vandq_u8(q, vdupq_n_u8(mask))); }

/* ---- one block of codes: the quads of a strip, and which four columns of the block they belong to ---- */

/* 16 columns of 2-bit codes, 64 bytes. */
MB_INLINE void dot_2_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 v = columns_load(x);
  for (int j = 0; j < 4; j++) {
    const uint8x16_t q = vld1q_u8(p + 16 * j);
    s[j] = quad_dot_lane(s[j], low_bits(q, 3), v, 0);
    s[j] = quad_dot_lane(s[j], low_bits(vshrq_n_u8(q, 2), 3), v, 1);
    s[j] = quad_dot_lane(s[j], low_bits(vshrq_n_u8(q, 4), 3), v, 2);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vshrq_n_u8(q, 6)), v, 3);
  }
}

/* 16 of the 32 columns of a block of 3-bit codes: their low bits, and the high bits moved down to bits 0..3. */
MB_INLINE quad dot_3_bits_half(quad s, uint8x16_t q, uint8x16_t high, columns_16 x) {
  const uint8x16_t bit2 = vdupq_n_u8(4), bits01 = vdupq_n_u8(3);
  const uint8x16_t c0 = vorrq_u8(vandq_u8(q, bits01), vandq_u8(vshlq_n_u8(high, 2), bit2));
  const uint8x16_t c1 = vorrq_u8(vandq_u8(vshrq_n_u8(q, 2), bits01), vandq_u8(vshlq_n_u8(high, 1), bit2));
  const uint8x16_t c2 = vorrq_u8(vandq_u8(vshrq_n_u8(q, 4), bits01), vandq_u8(high, bit2));
  const uint8x16_t c3 = vorrq_u8(vshrq_n_u8(q, 6), vandq_u8(vshrq_n_u8(high, 1), bit2));
  s = quad_dot_lane(s, vreinterpretq_s8_u8(c0), x, 0);
  s = quad_dot_lane(s, vreinterpretq_s8_u8(c1), x, 1);
  s = quad_dot_lane(s, vreinterpretq_s8_u8(c2), x, 2);
  return quad_dot_lane(s, vreinterpretq_s8_u8(c3), x, 3);
}

/* 32 columns of 3-bit codes, 192 bytes. */
MB_INLINE void dot_3_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 first = columns_load(x), second = columns_load(x + 16);
  for (int j = 0; j < 4; j++) {
    const uint8x16_t high = vld1q_u8(p + 128 + 16 * j);
    s[j] = dot_3_bits_half(s[j], vld1q_u8(p + 16 * j), high, first);
    s[j] = dot_3_bits_half(s[j], vld1q_u8(p + 64 + 16 * j), vshrq_n_u8(high, 4), second);
  }
}

/* 16 columns of 4-bit codes, 128 bytes. */
MB_INLINE void dot_4_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 v = columns_load(x);
  for (int j = 0; j < 4; j++) {
    const uint8x16_t first = vld1q_u8(p + 16 * j), second = vld1q_u8(p + 64 + 16 * j);
    s[j] = quad_dot_lane(s[j], low_bits(first, 15), v, 0);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vshrq_n_u8(first, 4)), v, 1);
    s[j] = quad_dot_lane(s[j], low_bits(second, 15), v, 2);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vshrq_n_u8(second, 4)), v, 3);
  }
}

/* 16 of the 32 columns of a block of 5-bit codes: what they say but for their lowest bits, which are bits 0..3 of
 * `low`. A shift with insertion keeps the low bit of what it inserts into. */
MB_INLINE quad dot_5_bits_half(quad s, uint8x16_t q, uint8x16_t r, uint8x16_t low, columns_16 x) {
  const uint8x16_t nibble = vdupq_n_u8(15);
  s = quad_dot_lane(s, vreinterpretq_s8_u8(vsliq_n_u8(low, vandq_u8(q, nibble), 1)), x, 0);
  s = quad_dot_lane(s, vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 1), vshrq_n_u8(q, 4), 1)), x, 1);
  s = quad_dot_lane(s, vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 2), vandq_u8(r, nibble), 1)), x, 2);
  return quad_dot_lane(s, vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 3), vshrq_n_u8(r, 4), 1)), x, 3);
}

/* 32 columns of 5-bit codes, 320 bytes. */
MB_INLINE void dot_5_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 first = columns_load(x), second = columns_load(x + 16);
  for (int j = 0; j < 4; j++, p += 16) {
    const uint8x16_t low = vld1q_u8(p + 256);
    s[j] = dot_5_bits_half(s[j], vld1q_u8(p), vld1q_u8(p + 64), low, first);
    s[j] = dot_5_bits_half(s[j], vld1q_u8(p + 128), vld1q_u8(p + 192), vshrq_n_u8(low, 4), second);
  }
}

/* 16 columns of 6-bit codes, 192 bytes. */
MB_INLINE void dot_6_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 v = columns_load(x);
  const uint8x16_t nibble = vdupq_n_u8(15);
  for (int j = 0; j < 4; j++, p += 16) {
    const uint8x16_t q = vld1q_u8(p), r = vld1q_u8(p + 64), low = vld1q_u8(p + 128);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vsliq_n_u8(low, vandq_u8(q, nibble), 2)), v, 0);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 2), vshrq_n_u8(q, 4), 2)), v, 1);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 4), vandq_u8(r, nibble), 2)), v, 2);
    s[j] = quad_dot_lane(s[j], vreinterpretq_s8_u8(vsliq_n_u8(vshrq_n_u8(low, 6), vshrq_n_u8(r, 4), 2)), v, 3);
  }
}

/* The windows of 16 columns of four rows of a trellis' codes, as with 2 bits (packed/trellis_layout.h): windows[f] has
 * those of the columns 4 * f .. 4 * f + 3. */
MB_INLINE void trellis_windows(uint8x16_t windows[4], uint8x16_t q) {
#define TURNED_LEFT(words, bits) vsliq_n_u32(vshrq_n_u32(words, 32 - (bits)), words, bits)
  const uint32x4_t words = vreinterpretq_u32_u8(q), both = veorq_u32(words, TURNED_LEFT(words, 2));
  const uint8x16_t sums = vreinterpretq_u8_u32(TURNED_LEFT(both, 1)); /* the even bits: of two upper bits */
  const uint8x16_t odd = vbslq_u8(vdupq_n_u8(0x11), sums, q), nibble = vdupq_n_u8(15);
  const uint32x4_t left = vreinterpretq_u32_u8(vbslq_u8(vdupq_n_u8(0x44), sums, q));
  const uint8x16_t even = vreinterpretq_u8_u32(TURNED_LEFT(left, 2));
#undef TURNED_LEFT
  windows[0] = vandq_u8(even, nibble);
  windows[1] = vandq_u8(odd, nibble);
  windows[2] = vshrq_n_u8(even, 4);
  windows[3] = vshrq_n_u8(odd, 4);
}

/* The codes that they look up. */
MB_INLINE int8x16_t trellis_code_2(uint8x16_t table, uint8x16_t window) {
  return vreinterpretq_s8_u8(look_up(table, window));
}
/* Bit 1 of the bytes of `plane` is the columns'. */
MB_INLINE int8x16_t trellis_code_3(uint8x16_t table, uint8x16_t window, uint8x16_t plane) {
  const uint8x16_t bit1 = vdupq_n_u8(2);
#if defined(__aarch64__) /* where clang sees what the mask is, it takes three instructions for this one */
  __asm__("bit %0.16b, %1.16b, %2.16b" : "+w"(window) : "w"(plane), "w"(bit1));
#else
  window = vbslq_u8(bit1, plane, window);
#endif
  return vreinterpretq_s8_u8(look_up(table, window));
}

MB_INLINE void trellis_codes_2(int8x16_t codes[4], uint8x16_t table, uint8x16_t q) {
  uint8x16_t windows[4];
  trellis_windows(windows, q);
  for (int f = 0; f < 4; f++) codes[f] = trellis_code_2(table, windows[f]);
}

/* The same with 3 bits. The columns' bits of the plane are bits 1..4 of `plane`. */
MB_INLINE void trellis_codes_3(int8x16_t codes[4], uint8x16_t table, uint8x16_t q, uint8x16_t plane) {
  uint8x16_t windows[4];
  trellis_windows(windows, q);
  codes[0] = trellis_code_3(table, windows[0], plane);
  codes[1] = trellis_code_3(table, windows[1], vshrq_n_u8(plane, 1));
  codes[2] = trellis_code_3(table, windows[2], vshrq_n_u8(plane, 2));
  codes[3] = trellis_code_3(table, windows[3], vshrq_n_u8(plane, 3));
}

/* The same with 2.5 bits. The bits of the plane are bits 1 and 2 of `plane`. */
MB_INLINE void trellis_codes_25(int8x16_t codes[4], uint8x16_t even, uint8x16_t odd, uint8x16_t q, uint8x16_t plane) {
  uint8x16_t windows[4];
  trellis_windows(windows, q);
  codes[0] = trellis_code_3(even, windows[0], plane);
  codes[1] = trellis_code_2(odd, windows[1]);
  codes[2] = trellis_code_3(even, windows[2], vshrq_n_u8(plane, 1));
  codes[3] = trellis_code_2(odd, windows[3]);
}

/* A table that seems new for every block: one that is known from before the loop gets no register in it, and clang
 * loads it again for each of the 16 look-ups. */
MB_INLINE uint8x16_t trellis_table(const uint8_t *levels) {
  __asm__("" : "+r"(levels));
  return vld1q_u8(levels);
}

MB_INLINE quad dot_16_codes(quad s, const int8x16_t codes[4], columns_16 x) {
  s = quad_dot_lane(s, codes[0], x, 0);
  s = quad_dot_lane(s, codes[1], x, 1);
  s = quad_dot_lane(s, codes[2], x, 2);
  return quad_dot_lane(s, codes[3], x, 3);
}

/* 16 columns, 64 bytes. */
MB_INLINE void dot_trellis_2(quad s[4], const uint8_t *p, const int8_t *x) {
  const columns_16 v = columns_load(x);
  const uint8x16_t table = trellis_table(mb_trellis_2);
  UNROLL_4
  for (int j = 0; j < 4; j++) {
    int8x16_t codes[4];
    trellis_codes_2(codes, table, vld1q_u8(p + 16 * j));
    s[j] = dot_16_codes(s[j], codes, v);
  }
}

/* 16 columns of 32 whose 192 bytes begin at p, the block-th: more at a time, and there are no registers left. */
MB_INLINE void dot_trellis_3(quad s[4], const uint8_t *p, const int8_t *x, uint32_t block) {
  const columns_16 v = columns_load(x);
  const int8x16_t places = vdupq_n_s8((int8_t)(1 - 4 * (int)block));
  const uint8x16_t table = trellis_table(mb_trellis_3);
  UNROLL_4
  for (int j = 0; j < 4; j++) {
    const uint8x16_t plane = vshlq_u8(vld1q_u8(p + 128 + 16 * j), places);
    int8x16_t codes[4];
    trellis_codes_3(codes, table, vld1q_u8(p + 64 * block + 16 * j), plane);
    s[j] = dot_16_codes(s[j], codes, v);
  }
}

/* 16 columns of 64 whose 320 bytes begin at p, the block-th. */
MB_INLINE void dot_trellis_25(quad s[4], const uint8_t *p, const int8_t *x, uint32_t block) {
  const columns_16 v = columns_load(x);
  const int8x16_t places = vdupq_n_s8((int8_t)(1 - 2 * (int)block));
  const uint8x16_t even = trellis_table(mb_trellis_25[0]), odd = trellis_table(mb_trellis_25[1]);
  UNROLL_4
  for (int j = 0; j < 4; j++) {
    const uint8x16_t plane = vshlq_u8(vld1q_u8(p + 256 + 16 * j), places);
    int8x16_t codes[4];
    trellis_codes_25(codes, even, odd, vld1q_u8(p + 64 * block + 16 * j), plane);
    s[j] = dot_16_codes(s[j], codes, v);
  }
}

/* 4 columns of 8-bit codes, 64 bytes. */
MB_INLINE void dot_8_bits(quad s[4], const uint8_t *p, const int8_t *x) {
  const int8x16_t x0 = broadcast_4(x);
  for (int j = 0; j < 4; j++) s[j] = quad_dot(s[j], vreinterpretq_s8_u8(vld1q_u8(p + 16 * j)), x0);
}

/* ---- decoding: one vector ---- */

/* `columns` columns of a strip. `most` columns at a time fit in the quads' sums. */
MB_INLINE strip_sums dot_strip(const uint8_t *p, const int8_t *x, uint32_t columns, uint32_t bits, bool ternary) {
  const uint32_t most = STEPS(largest_code(bits, ternary)) * 4;
  quad_sums total[4];
  for (int j = 0; j < 4; j++) total[j] = quad_sums_zero();
  uint32_t block = 0; /* of 16 columns, among the 32 or 64 whose bits lie together */
  while (columns > 0) {
    uint32_t width = columns < most ? columns : most;
    quad s[4];
    for (int j = 0; j < 4; j++) s[j] = quad_zero();
    columns -= width;
    if (bits == 2)
      for (; width > 0; width -= 16, p += 64, x += 16) dot_2_bits(s, p, x);
    if (bits == 3)
      for (; width > 0; width -= 32, p += 192, x += 32) dot_3_bits(s, p, x);
    if (bits == 4)
      for (; width > 0; width -= 16, p += 128, x += 16) dot_4_bits(s, p, x);
    if (bits == 5)
      for (; width > 0; width -= 32, p += 320, x += 32) dot_5_bits(s, p, x);
    if (bits == 6)
      for (; width > 0; width -= 16, p += 192, x += 16) dot_6_bits(s, p, x);
    if (bits == 8)
      for (; width > 0; width -= 4, p += 64, x += 4) dot_8_bits(s, p, x);
    if (bits == MB_TRELLIS_2)
      for (; width > 0; width -= 16, p += 64, x += 16) dot_trellis_2(s, p, x);
    if (bits == MB_TRELLIS_25)
      for (; width > 0; width -= 16, x += 16, p += block == 3 ? 320 : 0, block = (block + 1) % 4)
        dot_trellis_25(s, p, x, block);
    if (bits == MB_TRELLIS_3)
      for (; width > 0; width -= 16, x += 16, p += block == 1 ? 192 : 0, block = 1 - block)
        dot_trellis_3(s, p, x, block);
    for (int j = 0; j < 4; j++) total[j] = quad_add(total[j], s[j]);
  }
  strip_sums sums;
  for (int j = 0; j < 4; j++) sums.rows[j] = quad_rows(total[j]);
  return sums;
}

/* y = (S * s) * scale for vector n, S = sums - sum of the vector's codes. */
MB_INLINE void finish_ternary(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row,
                              const strip_sums *sums, float *y) {
  const int32x4_t sum = vdupq_n_s32(x->sums[n]);
  float32x4_t out[4];
  for (int j = 0; j < 4; j++) {
    float32x4_t s = w->row_scales != NULL ? vld1q_f32(w->row_scales + row + 4 * j) : vdupq_n_f32(w->scale);
    out[j] = vmulq_f32(vmulq_f32(vcvtq_f32_s32(vsubq_s32(sums->rows[j], sum)), s), vdupq_n_f32(x->scales[n]));
  }
  store_rows(y + row, out, w->rows - row);
}

static void ternary_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                           uint32_t row_end) {
  const size_t strip_bytes = mb_ternary_strip_bytes(w);
  for (uint32_t row = row_begin; row < row_end; row += MB_STRIP_ROWS) {
    strip_sums s =
        dot_strip(w->data + row / MB_STRIP_ROWS * strip_bytes, x->codes, mb_round_up(w->columns, 16), 2, true);
    finish_ternary(w, x, 0, row, &s, y);
  }
}

/* F = F + t * scale, for vector n and the strip's rows; `record` begins with the group's scales. */
MB_INLINE void add_group(float32x4_t sums[4], const strip_sums *dots, const uint8_t *record, const mb_activations *x,
                         uint32_t n, uint32_t group, uint32_t bits, uint32_t flags) {
  const size_t at = (size_t)n * x->groups + group;
  const int32_t offset = flags & MB_FLAG_ASYMMETRIC ? 0 : mb_symmetric_offset(bits);
  const float32x4_t scale = vdupq_n_f32(x->scales[at]), sum = vdupq_n_f32((float)x->sums[at]);
  for (int j = 0; j < 4; j++) {
    const int32x4_t s = vsubq_s32(dots->rows[j], vdupq_n_s32(offset * x->sums[at]));
    float32x4_t t = vcvtq_f32_s32(s);
    if (mb_has_zeros(flags)) /* exact, all of it */
      t = vsubq_f32(t, vmulq_f32(load_4_zeros(record, j), vmulq_n_f32(sum, mb_zero_unit(bits))));
    t = vmulq_f32(t, load_4_scales(record, j, flags));
    if ((flags & MB_FLAG_ASYMMETRIC) && !mb_has_zeros(flags))
      t = vaddq_f32(t, vmulq_f32(sum, load_4_f16(record + 32 + 8 * j)));
    sums[j] = vaddq_f32(sums[j], vmulq_f32(t, scale));
  }
}

MB_INLINE void affine_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                             uint32_t row_end, uint32_t bits, uint32_t flags) {
  const size_t head = mb_record_head_bytes(flags), record = mb_record_bytes(w);
  const uint32_t groups = mb_affine_groups(w);
  for (uint32_t row = row_begin; row < row_end; row += MB_STRIP_ROWS) {
    const uint8_t *p = w->data + (size_t)(row / MB_STRIP_ROWS) * groups * record;
    float32x4_t sums[4];
    for (int j = 0; j < 4; j++) sums[j] = vdupq_n_f32(0);
    for (uint32_t g = 0; g < groups; g++, p += record) {
      strip_sums s = dot_strip(p + head, x->codes + (size_t)g * w->group, w->group, bits, false);
      add_group(sums, &s, p, x, 0, g, bits, flags);
    }
    for (int j = 0; j < 4; j++) sums[j] = vmulq_f32(sums[j], vdupq_n_f32(w->scale));
    store_rows(y + row, sums, w->rows - row);
  }
}

/* ---- prefill: one strip at a time, unpacked to [columns / 4][16 rows][4] int8, for all vectors ---- */

/* For signs: where rows 0..3 of a quad find their byte, and the bits of its columns, for both quads of a byte. */
static const uint8_t four_times[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
static const uint8_t sign_bits[2][16] = {{1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8},
                                         {16, 32, 64, 128, 16, 32, 64, 128, 16, 32, 64, 128, 16, 32, 64, 128}};

MB_INLINE void unpack(int8_t *tile, const uint8_t *p, uint32_t columns, uint32_t bits) {
  uint8_t *to = (uint8_t *)tile;
  const uint8x16_t bits01 = vdupq_n_u8(3), bit2 = vdupq_n_u8(4), nibble = vdupq_n_u8(15);
  if (bits == 1)
    for (uint32_t c = 0; c < columns; c += 8, p += 16)
      for (int f = 0; f < 2; f++)
        for (uint8_t j = 0; j < 16; j += 4, to += 16) { /* rows j..j+3: their bytes four times each */
          const uint8x16_t rows = look_up(vld1q_u8(p), vaddq_u8(vld1q_u8(four_times), vdupq_n_u8(j)));
          vst1q_u8(to, vandq_u8(vtstq_u8(rows, vld1q_u8(sign_bits[f])), vdupq_n_u8(2)));
        }
  if (bits == 2)
    for (uint32_t c = 0; c < columns; c += 16, to += 192)
      for (int j = 0; j < 4; j++, p += 16, to += 16) {
        const uint8x16_t q = vld1q_u8(p);
        vst1q_u8(to, vandq_u8(q, bits01));
        vst1q_u8(to + 64, vandq_u8(vshrq_n_u8(q, 2), bits01));
        vst1q_u8(to + 128, vandq_u8(vshrq_n_u8(q, 4), bits01));
        vst1q_u8(to + 192, vshrq_n_u8(q, 6));
      }
  if (bits == 3)
    for (uint32_t c = 0; c < columns; c += 32, p += 192, to += 512)
      for (int j = 0; j < 4; j++) {
        uint8x16_t q = vld1q_u8(p + 16 * j), r = vld1q_u8(p + 64 + 16 * j);
        uint8x16_t high = vld1q_u8(p + 128 + 16 * j), later = vshrq_n_u8(high, 4);
        for (int f = 0; f < 4; f++) {
          vst1q_u8(to + 64 * f + 16 * j, vorrq_u8(vandq_u8(q, bits01), vandq_u8(vshlq_n_u8(high, 2), bit2)));
          vst1q_u8(to + 256 + 64 * f + 16 * j, vorrq_u8(vandq_u8(r, bits01), vandq_u8(vshlq_n_u8(later, 2), bit2)));
          q = vshrq_n_u8(q, 2), r = vshrq_n_u8(r, 2);
          high = vshrq_n_u8(high, 1), later = vshrq_n_u8(later, 1);
        }
      }
  if (bits == 4)
    for (uint32_t c = 0; c < columns; c += 8, to += 64)
      for (int j = 0; j < 4; j++, p += 16, to += 16) {
        const uint8x16_t q = vld1q_u8(p);
        vst1q_u8(to, vandq_u8(q, nibble));
        vst1q_u8(to + 64, vshrq_n_u8(q, 4));
      }
  if (bits == 5)
    for (uint32_t c = 0; c < columns; c += 32, p += 320, to += 512)
      for (int j = 0; j < 64; j += 16) {
        uint8x16_t low = vld1q_u8(p + 256 + j);
        for (int f = 0; f < 4; f++, low = vshrq_n_u8(low, 2)) {
          const uint8x16_t q = vld1q_u8(p + 64 * f + j);
          vst1q_u8(to + 128 * f + j, vsliq_n_u8(low, vandq_u8(q, nibble), 1));
          vst1q_u8(to + 128 * f + 64 + j, vsliq_n_u8(vshrq_n_u8(low, 1), vshrq_n_u8(q, 4), 1));
        }
      }
  if (bits == 6)
    for (uint32_t c = 0; c < columns; c += 16, p += 192, to += 256)
      for (int j = 0; j < 64; j += 16) {
        uint8x16_t low = vld1q_u8(p + 128 + j);
        for (int f = 0; f < 2; f++, low = vshrq_n_u8(low, 4)) {
          const uint8x16_t q = vld1q_u8(p + 64 * f + j);
          vst1q_u8(to + 128 * f + j, vsliq_n_u8(low, vandq_u8(q, nibble), 2));
          vst1q_u8(to + 128 * f + 64 + j, vsliq_n_u8(vshrq_n_u8(low, 2), vshrq_n_u8(q, 4), 2));
        }
      }
  if (bits == MB_TRELLIS_2)
    for (uint32_t c = 0; c < columns; c += 16, to += 256)
      for (int j = 0; j < 64; j += 16, p += 16) {
        int8x16_t codes[4];
        trellis_codes_2(codes, vld1q_u8(mb_trellis_2), vld1q_u8(p));
        for (int f = 0; f < 4; f++) vst1q_u8(to + 64 * f + j, vreinterpretq_u8_s8(codes[f]));
      }
  if (bits == MB_TRELLIS_25) {
    const uint8x16_t even = vld1q_u8(mb_trellis_25[0]), odd = vld1q_u8(mb_trellis_25[1]);
    for (uint32_t c = 0; c < columns; c += 64, p += 320, to += 1024)
      for (int j = 0; j < 64; j += 16) {
        const uint8x16_t plane = vld1q_u8(p + 256 + j);
        int8x16_t codes[16];
        trellis_codes_25(codes, even, odd, vld1q_u8(p + j), vshlq_n_u8(plane, 1));
        trellis_codes_25(codes + 4, even, odd, vld1q_u8(p + 64 + j), vshrq_n_u8(plane, 1));
        trellis_codes_25(codes + 8, even, odd, vld1q_u8(p + 128 + j), vshrq_n_u8(plane, 3));
        trellis_codes_25(codes + 12, even, odd, vld1q_u8(p + 192 + j), vshrq_n_u8(plane, 5));
        for (int f = 0; f < 16; f++) vst1q_u8(to + 64 * f + j, vreinterpretq_u8_s8(codes[f]));
      }
  }
  if (bits == MB_TRELLIS_3)
    for (uint32_t c = 0; c < columns; c += 32, p += 192, to += 512)
      for (int j = 0; j < 64; j += 16) {
        const uint8x16_t plane = vld1q_u8(p + 128 + j), table = vld1q_u8(mb_trellis_3);
        int8x16_t codes[8];
        trellis_codes_3(codes, table, vld1q_u8(p + j), vshlq_n_u8(plane, 1));
        trellis_codes_3(codes + 4, table, vld1q_u8(p + 64 + j), vshrq_n_u8(plane, 3));
        for (int f = 0; f < 8; f++) vst1q_u8(to + 64 * f + j, vreinterpretq_u8_s8(codes[f]));
      }
}

/* The strip's rows times four vectors; `tile` holds byte codes, `panel` points at the first of the vectors. */
MB_INLINE void dot_panel(strip_sums out[4], const int8_t *tile, const int8_t *panel, size_t panel_row, uint32_t columns,
                         uint32_t most) {
  for (int first = 0; first < 4; first += PANEL_QUADS) {
    quad_sums total[PANEL_QUADS][4];
    for (int j = 0; j < PANEL_QUADS; j++)
      for (int n = 0; n < 4; n++) total[j][n] = quad_sums_zero();
    for (uint32_t k = 0; k < columns / 4;) {
      const uint32_t end = columns / 4 - k < most ? columns / 4 : k + most;
      quad s[PANEL_QUADS][4];
      for (int j = 0; j < PANEL_QUADS; j++)
        for (int n = 0; n < 4; n++) s[j][n] = quad_zero();
      for (; k < end; k++) {
        const int8x16_t x = vld1q_s8(panel + k * panel_row);
        for (int j = 0; j < PANEL_QUADS; j++)
          quad_dot_panel(s[j], vld1q_s8(tile + (size_t)k * 64 + 16 * (first + j)), x);
      }
      for (int j = 0; j < PANEL_QUADS; j++)
        for (int n = 0; n < 4; n++) total[j][n] = quad_add(total[j][n], s[j][n]);
    }
    for (int j = 0; j < PANEL_QUADS; j++)
      for (int n = 0; n < 4; n++) out[n].rows[first + j] = quad_rows(total[j][n]);
  }
}

static void ternary_panel(const mb_tile *t) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, first = t->first, vectors = t->vectors;
  int8_t tile[TERNARY_COLUMNS * MB_STRIP_ROWS];
  strip_sums sums[PANEL_VECTORS];
  const uint8_t *p = w->data + row / MB_STRIP_ROWS * mb_ternary_strip_bytes(w);
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t columns = mb_round_up(w->columns, 16);
  memset(sums, 0, sizeof sums);
  for (uint32_t c = 0; c < columns; c += TERNARY_COLUMNS) {
    uint32_t width = columns - c < TERNARY_COLUMNS ? columns - c : TERNARY_COLUMNS;
    unpack(tile, p + (size_t)c * 4, width, 2);
    for (uint32_t n = 0; n < vectors; n += 4) {
      strip_sums part[4];
      dot_panel(part, tile, x->panel + c / 4 * panel_row + (size_t)(first + n) * 4, panel_row, width, STEPS(2));
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sums[n + i].rows[j] = vaddq_s32(sums[n + i].rows[j], part[i].rows[j]);
    }
  }
  for (uint32_t n = 0; n < vectors; n++)
    finish_ternary(w, x, first + n, row, &sums[n], t->y + (first + n) * t->y_stride);
}

MB_INLINE void affine_panel(const mb_tile *t, uint32_t bits, uint32_t flags) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, first = t->first, vectors = t->vectors;
  int8_t tile[MB_MAX_GROUP * MB_STRIP_ROWS];
  float32x4_t sums[PANEL_VECTORS][4];
  const size_t head = mb_record_head_bytes(flags), record = mb_record_bytes(w);
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t groups = mb_affine_groups(w), most = STEPS(largest_code(bits, false));
  const uint8_t *p = w->data + (size_t)(row / MB_STRIP_ROWS) * groups * record;
  memset(sums, 0, sizeof sums);
  for (uint32_t g = 0; g < groups; g++, p += record) {
    const int8_t *codes = bits == 8 ? (const int8_t *)(p + head) : tile; /* 8 bits lie ready */
    if (bits != 8) unpack(tile, p + head, w->group, bits);
    for (uint32_t n = 0; n < vectors; n += 4) {
      strip_sums s[4];
      dot_panel(s, codes, x->panel + (size_t)g * w->group / 4 * panel_row + (size_t)(first + n) * 4, panel_row,
                w->group, most);
      for (uint32_t i = 0; i < 4 && n + i < vectors; i++)
        add_group(sums[n + i], &s[i], p, x, first + n + i, g, bits, flags);
    }
  }
  for (uint32_t n = 0; n < vectors; n++) {
    for (int j = 0; j < 4; j++) sums[n][j] = vmulq_f32(sums[n][j], vdupq_n_f32(w->scale));
    store_rows(t->y + (first + n) * t->y_stride + row, sums[n], w->rows - row);
  }
}

#include "kernels/neon_sign-impl.h"
#include "kernels/neon_sparse-impl.h" /* it uses dot_panel */
#include "kernels/neon_vector-impl.h" /* and so does this */

/* ---- the table's entry ---- */

#define AFFINE(bits)                                                                                          \
  static void affine_vector_##bits(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                   uint32_t row_end) {                                                        \
    if (mb_is_asymmetric(w))                                                                                  \
      affine_vector(w, x, y, row_begin, row_end, bits, MB_FLAG_ASYMMETRIC);                                   \
    else                                                                                                      \
      affine_vector(w, x, y, row_begin, row_end, bits, 0);                                                    \
  }                                                                                                           \
  static void affine_panel_##bits(const mb_tile *t) {                                                         \
    if (mb_is_asymmetric(t->w))                                                                               \
      affine_panel(t, bits, MB_FLAG_ASYMMETRIC);                                                              \
    else                                                                                                      \
      affine_panel(t, bits, 0);                                                                               \
  }
/* The widths whose scales may be bytes. */
#define AFFINE_OR_E4M4(bits)                                                                                  \
  static void affine_vector_##bits(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                   uint32_t row_end) {                                                        \
    if (mb_has_zeros(w->flags))                                                                               \
      affine_vector(w, x, y, row_begin, row_end, bits, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4);                    \
    else if (mb_is_asymmetric(w))                                                                             \
      affine_vector(w, x, y, row_begin, row_end, bits, MB_FLAG_ASYMMETRIC);                                   \
    else                                                                                                      \
      affine_vector(w, x, y, row_begin, row_end, bits, 0);                                                    \
  }                                                                                                           \
  static void affine_panel_##bits(const mb_tile *t) {                                                         \
    if (mb_has_zeros(t->w->flags))                                                                            \
      affine_panel(t, bits, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4);                                               \
    else if (mb_is_asymmetric(t->w))                                                                          \
      affine_panel(t, bits, MB_FLAG_ASYMMETRIC);                                                              \
    else                                                                                                      \
      affine_panel(t, bits, 0);                                                                               \
  }
AFFINE(2)
AFFINE(8)
AFFINE_OR_E4M4(3)
AFFINE_OR_E4M4(4)
AFFINE_OR_E4M4(5)
AFFINE_OR_E4M4(6)

static void sign_panel(const mb_tile *t) { affine_panel(t, 1, 0); }

/* Trellis codes have no offsets. */
#define TRELLIS(bits)                                                                                          \
  static void trellis_vector_##bits(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, \
                                    uint32_t row_end) {                                                        \
    if (w->flags & MB_FLAG_E4M4)                                                                               \
      affine_vector(w, x, y, row_begin, row_end, MB_TRELLIS_##bits, MB_FLAG_E4M4);                             \
    else                                                                                                       \
      affine_vector(w, x, y, row_begin, row_end, MB_TRELLIS_##bits, 0);                                        \
  }                                                                                                            \
  static void trellis_panel_##bits(const mb_tile *t) {                                                         \
    if (t->w->flags & MB_FLAG_E4M4)                                                                            \
      affine_panel(t, MB_TRELLIS_##bits, MB_FLAG_E4M4);                                                        \
    else                                                                                                       \
      affine_panel(t, MB_TRELLIS_##bits, 0);                                                                   \
  }
TRELLIS(2)
TRELLIS(25)
TRELLIS(3)

/* Strip formats only. */
static void multiply_strips(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                            uint32_t row_end) {
  typedef void (*vector_kernel)(const mb_matrix *, const mb_activations *, float *, uint32_t, uint32_t);
  static const vector_kernel for_vector[MB_STRIP_FORMATS] = {
      ternary_vector,  affine_vector_2, affine_vector_3,  affine_vector_4,  affine_vector_8,  affine_vector_5,
      affine_vector_6, sign_vector,     trellis_vector_2, trellis_vector_3, trellis_vector_25};
  static const mb_tile_kernel for_panel[MB_STRIP_FORMATS] = {
      ternary_panel,  affine_panel_2, affine_panel_3,  affine_panel_4,  affine_panel_8,  affine_panel_5,
      affine_panel_6, sign_panel,     trellis_panel_2, trellis_panel_3, trellis_panel_25};
  const uint32_t last = mb_last_row(w, row_end), kernel = mb_strip_format(w->format);
  const mb_tile whole = {.w = w, .x = x, .y = y, .y_stride = y_stride, .row = row_begin};
  if (x->count == 1)
    for_vector[kernel](w, x, y, row_begin, last);
  else
    mb_each_tile(&whole, last, 1, PANEL_VECTORS, for_panel[kernel]);
}

#include "kernels/multiply-impl.h"

#endif

/* MB_FORMAT_SIGN1, decoding, for both NEON tables: sums of four activations are looked up, for 16 rows at a time. What
 * the tables hold is said in sign_layout.h.
 *
 * A fragment of neon_multiply-impl.h. It defines sign_vector(). */
#ifndef MB_KERNELS_NEON_SIGN_IMPL_H
#define MB_KERNELS_NEON_SIGN_IMPL_H

#include "kernels/neon_common.h"
#include "kernels/sign_layout.h"

/* The tables of `columns` (a multiple of 32) activations, 64 bytes per 8 columns: the digits low 0, high 0, low 1,
 * high 1 of its quads. */
static void sign_tables(uint8_t *tables, const int8_t *x, uint32_t columns) {
  /* The four values of the pair of columns 2i, 2i + 1 are the bytes 4i..4i+3. */
  static const uint8_t even[16] = {0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6};
  static const int8_t even_sign[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
  static const int8_t odd_sign[16] = {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1};
  static const uint8_t bits01[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  static const uint8_t bits23[16] = {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
  const uint8x16_t even_index = vld1q_u8(even), odd_index = vaddq_u8(even_index, vdupq_n_u8(1));
  const int8x16_t zero = vdupq_n_s8(0);
  for (uint32_t c = 0; c < columns; c += 8) {
    const uint8x8_t v = vreinterpret_u8_s8(vld1_s8(x + c));
    const uint8x16_t both = vcombine_u8(v, v);
    const int8x16_t a = vmulq_s8(vreinterpretq_s8_u8(look_up(both, even_index)), vld1q_s8(even_sign));
    const int8x16_t b = vmulq_s8(vreinterpretq_s8_u8(look_up(both, odd_index)), vld1q_s8(odd_sign));
    const uint8x16_t pairs = vaddq_u8(vreinterpretq_u8_s8(vmaxq_s8(a, zero)), vreinterpretq_u8_s8(vmaxq_s8(b, zero)));
    const uint8x16_t digits[2] = {vandq_u8(pairs, vdupq_n_u8(MB_SIGN_BASE - 1)), vshrq_n_u8(pairs, 4)};
    for (uint8_t first = 0; first < 16; first += 8) /* of the quad's bytes */
      for (int i = 0; i < 2; i++, tables += 16)
        vst1q_u8(tables, vaddq_u8(look_up(digits[i], vaddq_u8(vld1q_u8(bits01), vdupq_n_u8(first))),
                                  look_up(digits[i], vaddq_u8(vld1q_u8(bits23), vdupq_n_u8(first)))));
  }
}

/* The sums of |x| of every group of `columns` activations. */
static void sign_totals(int32_t *totals, const int8_t *x, uint32_t columns, uint32_t group) {
  for (uint32_t c = 0; c < columns; c += group) {
    uint16x8_t s = vdupq_n_u16(0); /* at most 8 * 2 * 127 each */
    for (uint32_t i = c; i < c + group; i += 16) s = vpadalq_u8(s, vreinterpretq_u8_s8(vabsq_s8(vld1q_s8(x + i))));
    int32x4_t t = vreinterpretq_s32_u32(vpaddlq_u16(s));
    t = pairwise_add(t, t);
    *totals++ = vgetq_lane_s32(t, 0) + vgetq_lane_s32(t, 1);
  }
}

/* `groups` groups of the strip at p, added to the strip's 16 float sums. */
MB_INLINE void sign_strip(float *sums, const uint8_t *p, const uint8_t *tables, const int32_t *totals,
                          const float *scales, uint32_t groups, uint32_t group) {
  const uint8x8_t base = vdup_n_u8(MB_SIGN_BASE);
  float32x4_t f[4];
  for (int j = 0; j < 4; j++) f[j] = vld1q_f32(sums + 4 * j);
  for (uint32_t g = 0; g < groups; g++) {
    const uint8_t *record = p;
    uint16x8_t v[2] = {vdupq_n_u16(0), vdupq_n_u16(0)}; /* rows 0..7, 8..15: at most 32 * 4 * 127 */
    p += mb_record_head_bytes(0);
    for (uint32_t c = 0; c < group; c += 32) { /* MB_SIGN_EXACT look-ups */
      uint8x16_t low = vdupq_n_u8(0), high = low;
      for (int i = 0; i < 4; i++, p += 16, tables += 64) {
        const uint8x16_t q = vld1q_u8(p), first = vandq_u8(q, vdupq_n_u8(15)), second = vshrq_n_u8(q, 4);
        low = vaddq_u8(low, look_up(vld1q_u8(tables), first));
        high = vaddq_u8(high, look_up(vld1q_u8(tables + 16), first));
        low = vaddq_u8(low, look_up(vld1q_u8(tables + 32), second));
        high = vaddq_u8(high, look_up(vld1q_u8(tables + 48), second));
      }
      v[0] = vmlal_u8(vaddw_u8(v[0], vget_low_u8(low)), vget_low_u8(high), base);
      v[1] = vmlal_u8(vaddw_u8(v[1], vget_high_u8(low)), vget_high_u8(high), base);
    }
    const int32x4_t total = vdupq_n_s32(totals[g]);
    const float32x4_t scale = vdupq_n_f32(scales[g]);
    for (int j = 0; j < 4; j++) {
      const uint16x4_t four = j % 2 == 0 ? vget_low_u16(v[j / 2]) : vget_high_u16(v[j / 2]);
      const int32x4_t s = vsubq_s32(vreinterpretq_s32_u32(vshll_n_u16(four, 1)), total);
      const float32x4_t t = vmulq_f32(vcvtq_f32_s32(s), load_4_f16(record + 8 * j));
      f[j] = vaddq_f32(f[j], vmulq_f32(t, scale));
    }
  }
  for (int j = 0; j < 4; j++) vst1q_f32(sums + 4 * j, f[j]);
}

static void sign_vector(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin, uint32_t row_end) {
  uint8_t tables[MB_SIGN_TILE * 8];
  float sums[MB_SIGN_ROWS];
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
        sign_strip(sums + r, p, tables, totals, scales, groups, w->group);
    }
    for (uint32_t r = 0; r < rows; r += MB_STRIP_ROWS) {
      float32x4_t out[4];
      for (int j = 0; j < 4; j++) out[j] = vmulq_f32(vld1q_f32(sums + r + 4 * j), vdupq_n_f32(w->scale));
      store_rows(y + first + r, out, w->rows - first - r);
    }
  }
}

#endif

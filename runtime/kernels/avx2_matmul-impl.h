/* Prefill: many vectors times a packed matrix, AVX2.
 *
 * A tile of rows and columns is unpacked to one byte per code, [columns / 4][16 rows][4] per strip, and stays in L1
 * while all vectors pass over it; the inner block is 16 rows x 4 vectors with eight accumulators (with 6 vectors they
 * spill). Group by group the same float operations follow as in decoding, so both give the same bits.
 *
 * A fragment of avx2.c. It defines multiply_panel(), for the strip formats. avx2_sparse-impl.h and avx2_vector-impl.h
 * use its block_sums, dot_block(), dot_group_wide(), widen(), widen_panel(), unpack_8_bits() and sizes of tiles. */
#ifndef MB_KERNELS_AVX2_MATMUL_IMPL_H
#define MB_KERNELS_AVX2_MATMUL_IMPL_H

#include "kernels/avx2_common.h"
#include "kernels/avx2_trellis-impl.h"
#include "kernels/tile.h"

#define TILE_STRIPS 4
#define TILE_ROWS (TILE_STRIPS * MB_STRIP_ROWS)
#define TILE_VECTORS 64     /* more vectors go through in several passes */
#define TERNARY_COLUMNS 256 /* 64 steps of at most 2 * 2 * 127 fit in 16 bits */
#define WIDE_STRIPS 2       /* 8-bit codes are unpacked to 16 bits: smaller tiles */

/* Sums of 16 rows x 4 vectors: [vector][rows 0..7, rows 8..15]. */
typedef struct {
  __m256i s[4][2];
} block_sums;

MB_INLINE block_sums zero_sums(void) {
  block_sums b;
  for (int n = 0; n < 4; n++) b.s[n][0] = b.s[n][1] = _mm256_setzero_si256();
  return b;
}

/* Four columns of 16 rows times four vectors, added to 16-bit sums. */
MB_INLINE void dot_step(block_sums *b, const uint8_t *tile, const int8_t *panel) {
  __m256i low = load_bytes(tile), high = load_bytes(tile + 32);
  for (int n = 0; n < 4; n++) {
    __m256i x = broadcast_4(panel + 4 * n);
    b->s[n][0] = _mm256_add_epi16(b->s[n][0], _mm256_maddubs_epi16(low, x));
    b->s[n][1] = _mm256_add_epi16(b->s[n][1], _mm256_maddubs_epi16(high, x));
  }
}

/* 16-bit sums over `steps` steps of four columns. `panel` points at the first of the four vectors. */
MB_INLINE block_sums dot_block(const uint8_t *tile, const int8_t *panel, size_t panel_row, uint32_t steps) {
  block_sums b = zero_sums();
  UNROLL_4
  for (uint32_t k = 0; k < steps; k++, tile += 64, panel += panel_row) dot_step(&b, tile, panel);
  return b;
}

MB_INLINE block_sums widen(block_sums b) {
  const __m256i one = _mm256_set1_epi16(1);
  for (int n = 0; n < 4; n++)
    for (int half = 0; half < 2; half++) b.s[n][half] = _mm256_madd_epi16(b.s[n][half], one);
  return b;
}

MB_INLINE block_sums add_32(block_sums a, block_sums b) {
  for (int n = 0; n < 4; n++)
    for (int half = 0; half < 2; half++) a.s[n][half] = _mm256_add_epi32(a.s[n][half], b.s[n][half]);
  return a;
}

/* ---- unpacking: one strip's codes to one byte each ---- */

/* `columns` (a multiple of 16) columns of 2-bit codes. */
static void unpack_2_bits(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i bits01 = _mm256_set1_epi8(3);
  for (uint32_t c = 0; c < columns; c += 16, p += 64, tile += 256)
    for (int half = 0; half < 64; half += 32) {
      __m256i q = load_bytes(p + half), *to = (__m256i *)(void *)(tile + half);
      _mm256_store_si256(to, _mm256_and_si256(q, bits01));
      _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(q, 2), bits01));
      _mm256_store_si256(to + 4, _mm256_and_si256(_mm256_srli_epi16(q, 4), bits01));
      _mm256_store_si256(to + 6, _mm256_and_si256(_mm256_srli_epi16(q, 6), bits01));
    }
}

/* Signs, to the codes 0 and 2. */
static void unpack_signs(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i bits = _mm256_set1_epi32((int)0x08040201), two = _mm256_set1_epi8(2);
  /* every byte four times: rows 0..3 in the low lane, 4..7 in the high one */
  const __m256i first =
      _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
  const __m256i eight = _mm256_set1_epi8(8);
  for (uint32_t c = 0; c < columns; c += 8, p += 16, tile += 128) {
    const __m256i rows = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
    for (int half = 0; half < 2; half++) {
      __m256i q = _mm256_shuffle_epi8(rows, half ? _mm256_add_epi8(first, eight) : first);
      __m256i *to = (__m256i *)(void *)(tile + 32 * half);
      for (int quad = 0; quad < 2; quad++, to += 2, q = _mm256_srli_epi16(q, 4))
        _mm256_store_si256(to, _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(q, bits), bits), two));
    }
  }
}

static void unpack_3_bits(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i bit0 = _mm256_set1_epi8(1);
  for (uint32_t c = 0; c < columns; c += 32, p += 192, tile += 512) {
    unpack_2_bits(tile, p, 32);
    for (int half = 0; half < 64; half += 32) {
      __m256i high = load_bytes(p + 128 + half), *to = (__m256i *)(void *)(tile + half);
      for (int j = 0; j < 8; j++, high = _mm256_srli_epi16(high, 1)) {
        __m256i bit2 = _mm256_slli_epi16(_mm256_and_si256(high, bit0), 2);
        _mm256_store_si256(to + 2 * j, _mm256_or_si256(_mm256_load_si256(to + 2 * j), bit2));
      }
    }
  }
}

static void unpack_4_bits(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i nibble = _mm256_set1_epi8(15);
  for (uint32_t c = 0; c < columns; c += 8, p += 64, tile += 128)
    for (int half = 0; half < 64; half += 32) {
      __m256i q = load_bytes(p + half), *to = (__m256i *)(void *)(tile + half);
      _mm256_store_si256(to, _mm256_and_si256(q, nibble));
      _mm256_store_si256(to + 2, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
    }
}

static void unpack_5_bits(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i bits1_4 = _mm256_set1_epi8(30), bit0 = _mm256_set1_epi8(1);
  for (uint32_t c = 0; c < columns; c += 32, p += 320, tile += 512)
    for (int half = 0; half < 64; half += 32) {
      __m256i low = load_bytes(p + 256 + half), *to = (__m256i *)(void *)(tile + half);
      for (int j = 0; j < 4; j++, to += 4, low = _mm256_srli_epi16(low, 2)) {
        const __m256i q = load_bytes(p + 64 * j + half), later = _mm256_srli_epi16(low, 1);
        _mm256_store_si256(
            to, _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(q, 1), bits1_4), _mm256_and_si256(low, bit0)));
        _mm256_store_si256(
            to + 2, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 3), bits1_4), _mm256_and_si256(later, bit0)));
      }
    }
}

static void unpack_6_bits(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i bits2_5 = _mm256_set1_epi8(60), bits01 = _mm256_set1_epi8(3);
  for (uint32_t c = 0; c < columns; c += 16, p += 192, tile += 256)
    for (int half = 0; half < 64; half += 32) {
      __m256i low = load_bytes(p + 128 + half), *to = (__m256i *)(void *)(tile + half);
      for (int j = 0; j < 2; j++, to += 4, low = _mm256_srli_epi16(low, 4)) {
        const __m256i q = load_bytes(p + 64 * j + half), later = _mm256_srli_epi16(low, 2);
        _mm256_store_si256(
            to, _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(q, 2), bits2_5), _mm256_and_si256(low, bits01)));
        _mm256_store_si256(to + 2, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 2), bits2_5),
                                                   _mm256_and_si256(later, bits01)));
      }
    }
}

static void unpack_trellis_2(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i table = trellis_table(mb_trellis_2);
  for (uint32_t c = 0; c < columns; c += 16, p += 64, tile += 256)
    for (int half = 0; half < 64; half += 32) {
      __m256i codes[4];
      trellis_codes_2(codes, table, p + half);
      for (int f = 0; f < 4; f++) _mm256_store_si256((__m256i *)(void *)(tile + 64 * f + half), codes[f]);
    }
}

static void unpack_trellis_3(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i table = trellis_table(mb_trellis_3);
  for (uint32_t c = 0; c < columns; c += 32, p += 192, tile += 512)
    for (int half = 0; half < 64; half += 32) {
      const __m256i plane = load_bytes(p + 128 + half);
      __m256i codes[8];
      trellis_codes_3(codes, table, p + half, half_plane(plane, false));
      trellis_codes_3(codes + 4, table, p + 64 + half, half_plane(plane, true));
      for (int f = 0; f < 8; f++) _mm256_store_si256((__m256i *)(void *)(tile + 64 * f + half), codes[f]);
    }
}

static void unpack_trellis_25(uint8_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i tables[2] = {trellis_table(mb_trellis_25[0]), trellis_table(mb_trellis_25[1])};
  for (uint32_t c = 0; c < columns; c += 64, p += 320)
    for (int half = 0; half < 64; half += 32) {
      const __m256i plane = load_bytes(p + 256 + half);
      UNROLL_4
      for (int block = 0; block < 4; block++) {
        __m256i codes[4];
        trellis_codes_25(codes, tables, p + 64 * block + half, quarter_plane(plane, block));
        uint8_t *to = tile + (c + 16 * (uint32_t)block) * 16 + half;
        for (int f = 0; f < 4; f++) _mm256_store_si256((__m256i *)(void *)(to + 64 * f), codes[f]);
      }
    }
}

/* 8-bit codes to [columns / 2][16 rows][2] int16. The wanted bytes become the high ones, then shift down with sign. */
static void unpack_8_bits(int16_t *tile, const uint8_t *p, uint32_t columns) {
  const __m256i first =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
  const __m256i second =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
  for (uint32_t c = 0; c < columns; c += 4, p += 64, tile += 64)
    for (int half = 0; half < 2; half++) {
      __m256i q = load_bytes(p + 32 * half), *to = (__m256i *)(void *)(tile + 16 * half);
      _mm256_store_si256(to, _mm256_srai_epi16(_mm256_shuffle_epi8(q, first), 8));
      _mm256_store_si256(to + 2, _mm256_srai_epi16(_mm256_shuffle_epi8(q, second), 8));
    }
}

/* ---- ternary ---- */

static void ternary_tile(const mb_tile *t) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, strips = t->strips, first = t->first, vectors = t->vectors;
  _Alignas(64) uint8_t tile[TILE_ROWS * TERNARY_COLUMNS];
  _Alignas(64) __m256i sums[TILE_VECTORS][TILE_STRIPS][2];
  const size_t strip_bytes = mb_ternary_strip_bytes(w), panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t columns = mb_round_up(w->columns, 16);
  memset(sums, 0, sizeof sums[0] * mb_round_up(vectors, 4));
  for (uint32_t c = 0; c < columns; c += TERNARY_COLUMNS) {
    uint32_t width = columns - c < TERNARY_COLUMNS ? columns - c : TERNARY_COLUMNS;
    for (uint32_t s = 0; s < strips; s++)
      unpack_2_bits(tile + s * MB_STRIP_ROWS * TERNARY_COLUMNS,
                    w->data + (row / MB_STRIP_ROWS + s) * strip_bytes + (size_t)c * 4, width);
    for (uint32_t n = 0; n < vectors; n += 4)
      for (uint32_t s = 0; s < strips; s++) {
        block_sums b = dot_block(tile + s * MB_STRIP_ROWS * TERNARY_COLUMNS,
                                 x->panel + c / 4 * panel_row + (size_t)(first + n) * 4, panel_row, width / 4);
        b = widen(b);
        for (int i = 0; i < 4; i++)
          for (int half = 0; half < 2; half++)
            sums[n + i][s][half] = _mm256_add_epi32(sums[n + i][s][half], b.s[i][half]);
      }
  }
  for (uint32_t n = 0; n < vectors; n++) {
    const __m256i sum = _mm256_set1_epi32(x->sums[first + n]);
    const __m256 scale = _mm256_set1_ps(x->scales[first + n]);
    for (uint32_t s = 0; s < strips; s++) {
      uint32_t r = row + s * MB_STRIP_ROWS;
      __m256 out[2];
      for (int half = 0; half < 2; half++) {
        __m256 row_scale =
            w->row_scales != NULL ? _mm256_loadu_ps(w->row_scales + r + 8 * half) : _mm256_set1_ps(w->scale);
        out[half] = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[n][s][half], sum));
        out[half] = _mm256_mul_ps(_mm256_mul_ps(out[half], row_scale), scale);
      }
      store_rows(t->y + (first + n) * t->y_stride + r, out[0], out[1], w->rows - r);
    }
  }
}

/* ---- affine ---- */

/* The scales of one group of a strip, and its offsets or zero points, as float32. */
typedef struct {
  __m256 d[2], m[2];
} group_scales;

MB_INLINE group_scales load_scales(const uint8_t *record, uint32_t flags) {
  group_scales k;
  for (int half = 0; half < 2; half++) {
    k.d[half] = load_8_scales(record, half, flags);
    k.m[half] = mb_has_zeros(flags)          ? load_8_zeros(record, half)
                : flags & MB_FLAG_ASYMMETRIC ? load_8_f16(record + 32 + 16 * half)
                                             : _mm256_setzero_ps();
  }
  return k;
}

/* F = F + t * scale, for one vector and the strip's rows. */
MB_INLINE void add_group(__m256 sums[2], const __m256i dots[2], const group_scales *k, const mb_activations *x,
                         uint32_t vector, uint32_t group, uint32_t bits, uint32_t flags) {
  /* Vectors that only fill up the last four take the last real one's numbers; what comes out is not used. */
  size_t at = (size_t)(vector < x->count ? vector : x->count - 1) * x->groups + group;
  const __m256 scale = _mm256_set1_ps(x->scales[at]), sum = _mm256_set1_ps((float)x->sums[at]);
  const int32_t offset = flags & MB_FLAG_ASYMMETRIC ? 0 : mb_symmetric_offset(bits);
  for (int half = 0; half < 2; half++) {
    __m256i s = dots[half];
    if (offset != 0) s = _mm256_sub_epi32(s, _mm256_set1_epi32(offset * x->sums[at]));
    __m256 t = _mm256_cvtepi32_ps(s);
    if (mb_has_zeros(flags)) t = less_zeros(t, k->m[half], sum, bits);
    t = _mm256_mul_ps(t, k->d[half]);
    if ((flags & MB_FLAG_ASYMMETRIC) && !mb_has_zeros(flags)) t = _mm256_add_ps(t, _mm256_mul_ps(sum, k->m[half]));
    sums[half] = _mm256_add_ps(sums[half], _mm256_mul_ps(t, scale));
  }
}

/* A group of byte codes: 16-bit sums, widened as often as the code's largest value asks for. */
MB_INLINE block_sums dot_group(const uint8_t *tile, const int8_t *panel, size_t panel_row, uint32_t columns,
                               uint32_t bits) {
  /* steps * 2 * largest code * 127 < 2^15 */
  const uint32_t most = bits <= 2 ? 32 : bits == 3 ? 16 : bits == 4 ? 8 : bits == 5 || bits > MB_TRELLIS ? 4 : 2;
  /* A group has at least 8 steps: from 4 bits on their number is a constant. */
  const uint32_t steps = bits >= 4 ? most : columns / 4 < most ? columns / 4 : most;
  block_sums b = widen(dot_block(tile, panel, panel_row, steps));
  if (bits <= 2) return b; /* the largest group fits */
  for (uint32_t k = steps; k < columns / 4; k += steps)
    b = add_32(b, widen(dot_block(tile + (size_t)k * 64, panel + k * panel_row, panel_row, steps)));
  return b;
}

/* A group of 16-bit codes; `panel` holds the four vectors as int16 too, [columns / 4][vectors][4]. */
MB_INLINE block_sums dot_group_wide(const int16_t *tile, const int16_t *panel, size_t panel_row, uint32_t columns) {
  block_sums b = zero_sums();
  UNROLL_4
  for (uint32_t c = 0; c < columns; c += 4, panel += panel_row)
    for (int pair = 0; pair < 2; pair++, tile += 32) {
      __m256i low = load_bytes(tile), high = load_bytes(tile + 16);
      for (int n = 0; n < 4; n++) {
        __m256i v = broadcast_4((const int8_t *)(panel + 4 * n + 2 * pair));
        b.s[n][0] = _mm256_add_epi32(b.s[n][0], _mm256_madd_epi16(low, v));
        b.s[n][1] = _mm256_add_epi32(b.s[n][1], _mm256_madd_epi16(high, v));
      }
    }
  return b;
}

/* The vectors' slice of the panel as int16, rows of `vectors` (a multiple of 4) * 4 values. */
static void widen_panel(int16_t *to, const int8_t *panel, size_t panel_row, uint32_t columns, uint32_t vectors) {
  for (uint32_t c = 0; c < columns; c += 4, panel += panel_row)
    for (uint32_t n = 0; n < vectors; n += 4, to += 16)
      _mm256_store_si256((__m256i *)(void *)to,
                         _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(panel + 4 * n))));
}

MB_INLINE void affine_tile(const mb_tile *t, uint32_t bits, uint32_t flags) {
  const mb_matrix *w = t->w;
  const mb_activations *x = t->x;
  const uint32_t row = t->row, strips = t->strips, first = t->first, vectors = t->vectors;
  _Alignas(64) uint8_t tile[TILE_ROWS * MB_MAX_GROUP]; /* 8 bits: int16, half as many rows */
  _Alignas(64) int16_t wide[TILE_VECTORS * (bits == 8 ? MB_MAX_GROUP : 1)];
  _Alignas(64) __m256 sums[TILE_VECTORS][TILE_STRIPS][2];
  const size_t head = mb_record_head_bytes(flags), record = mb_record_bytes(w);
  const size_t panel_row = (size_t)mb_round_up(x->count, 4) * 4;
  const uint32_t groups = mb_affine_groups(w), blocks = mb_round_up(vectors, 4);
  memset(sums, 0, sizeof sums[0] * blocks);
  for (uint32_t g = 0; g < groups; g++) {
    const uint8_t *p = w->data + (size_t)(row / MB_STRIP_ROWS) * groups * record + g * record;
    const int8_t *panel = x->panel + (size_t)g * w->group / 4 * panel_row + (size_t)first * 4;
    const size_t tile_bytes = (size_t)w->group * MB_STRIP_ROWS * (bits == 8 ? 2 : 1);
    group_scales scales[TILE_STRIPS];
    if (bits == 8) widen_panel(wide, panel, panel_row, w->group, blocks);
    for (uint32_t s = 0; s < strips; s++) {
      const uint8_t *own = p + (size_t)s * groups * record;
      uint8_t *to = tile + s * tile_bytes;
      scales[s] = load_scales(own, flags);
      if (bits == 1) unpack_signs(to, own + head, w->group);
      if (bits == 2) unpack_2_bits(to, own + head, w->group);
      if (bits == 3) unpack_3_bits(to, own + head, w->group);
      if (bits == 4) unpack_4_bits(to, own + head, w->group);
      if (bits == 5) unpack_5_bits(to, own + head, w->group);
      if (bits == 6) unpack_6_bits(to, own + head, w->group);
      if (bits == 8) unpack_8_bits((int16_t *)(void *)to, own + head, w->group);
      if (bits == MB_TRELLIS_2) unpack_trellis_2(to, own + head, w->group);
      if (bits == MB_TRELLIS_25) unpack_trellis_25(to, own + head, w->group);
      if (bits == MB_TRELLIS_3) unpack_trellis_3(to, own + head, w->group);
    }
    for (uint32_t n = 0; n < vectors; n += 4)
      for (uint32_t s = 0; s < strips; s++) {
        const uint8_t *from = tile + s * tile_bytes;
        block_sums b = bits == 8 ? dot_group_wide((const int16_t *)(const void *)from, wide + (size_t)n * 4,
                                                  (size_t)blocks * 4, w->group)
                                 : dot_group(from, panel + (size_t)n * 4, panel_row, w->group, bits);
        for (uint32_t i = 0; i < 4; i++)
          add_group(sums[n + i][s], b.s[i], &scales[s], x, first + n + i, g, bits, flags);
      }
  }
  for (uint32_t n = 0; n < vectors; n++)
    for (uint32_t s = 0; s < strips; s++) {
      uint32_t r = row + s * MB_STRIP_ROWS;
      const __m256 scale = _mm256_set1_ps(w->scale);
      store_rows(t->y + (first + n) * t->y_stride + r, _mm256_mul_ps(sums[n][s][0], scale),
                 _mm256_mul_ps(sums[n][s][1], scale), w->rows - r);
    }
}

#define AFFINE_TILE(bits)                            \
  static void affine_tile_##bits(const mb_tile *t) { \
    if (mb_is_asymmetric(t->w))                      \
      affine_tile(t, bits, MB_FLAG_ASYMMETRIC);      \
    else                                             \
      affine_tile(t, bits, 0);                       \
  }
AFFINE_TILE(2)
AFFINE_TILE(8)

#define AFFINE_TILE_OR_E4M4(bits)                              \
  static void affine_tile_##bits(const mb_tile *t) {           \
    if (mb_has_zeros(t->w->flags))                             \
      affine_tile(t, bits, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4); \
    else if (mb_is_asymmetric(t->w))                           \
      affine_tile(t, bits, MB_FLAG_ASYMMETRIC);                \
    else                                                       \
      affine_tile(t, bits, 0);                                 \
  }
AFFINE_TILE_OR_E4M4(3)
AFFINE_TILE_OR_E4M4(4)
AFFINE_TILE_OR_E4M4(5)
AFFINE_TILE_OR_E4M4(6)

static void sign_tile(const mb_tile *t) { affine_tile(t, 1, 0); }

#define TRELLIS_TILE(bits)                             \
  static void trellis_tile_##bits(const mb_tile *t) {  \
    if (t->w->flags & MB_FLAG_E4M4)                    \
      affine_tile(t, MB_TRELLIS_##bits, MB_FLAG_E4M4); \
    else                                               \
      affine_tile(t, MB_TRELLIS_##bits, 0);            \
  }
TRELLIS_TILE(2)
TRELLIS_TILE(25)
TRELLIS_TILE(3)

static void multiply_panel(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                           uint32_t row_end) {
  static const mb_tile_kernel kernels[MB_STRIP_FORMATS] = {
      ternary_tile,  affine_tile_2, affine_tile_3,  affine_tile_4,  affine_tile_8,  affine_tile_5,
      affine_tile_6, sign_tile,     trellis_tile_2, trellis_tile_3, trellis_tile_25};
  const mb_tile whole = {.w = w, .x = x, .y = y, .y_stride = y_stride, .row = row_begin};
  mb_each_tile(&whole, mb_last_row(w, row_end), w->format == MB_FORMAT_AFFINE8 ? WIDE_STRIPS : TILE_STRIPS,
               TILE_VECTORS, kernels[mb_strip_format(w->format)]);
}

#endif

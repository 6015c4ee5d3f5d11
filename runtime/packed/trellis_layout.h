/* The codes of the formats MB_FORMAT_TRELLIS*: a weight's code is looked up by the stored bits around it.
 *
 * Trellis-coded quantisation: Marcellin and Fischer 1990; a table indexed by a window of the stored bits: Tseng et al.
 * 2024, "QTIP" (arXiv:2406.11235), section 3. Which bits make a window: the upper bit of a pair runs through a binary
 * convolutional code of eight states, the lower one and that of the plane through none (Ungerboeck 1982).
 *
 * The tables hold code + 16, 1..31, so that a kernel multiplies them like 5-bit affine codes. They were trained on
 * Gaussian weights by Lloyd's algorithm on the trellis and rounded to whole numbers; one of a code is worth 1/5.36
 * (2 bits), 1/6.58 (2.5 bits) and 1/5.28 (3 bits) of the weights' standard deviation. */
#ifndef MB_PACKED_TRELLIS_LAYOUT_H
#define MB_PACKED_TRELLIS_LAYOUT_H

#include <stdint.h>

#define MB_TRELLIS_OFFSET 16  /* what a table's entry is above its code */
#define MB_TRELLIS_COLUMNS 16 /* columns whose bits go round in one circle */

/* By window: bit 0 the sum (modulo 2) of the upper bits of the second and third pair before, bit 1 that of the pair
 * before, bits 2-3 the weight's own pair. */
static const uint8_t mb_trellis_2[16] = {4, 11, 13, 8, 15, 19, 22, 17, 10, 15, 17, 13, 19, 24, 28, 21};
/* The same, but bit 1 is the weight's bit of the plane. */
static const uint8_t mb_trellis_3[16] = {3, 7, 16, 18, 12, 14, 21, 23, 9, 11, 18, 20, 14, 16, 25, 29};
/* 2.5 bits: weights at even places have a bit of the plane, those at odd ones have none. */
static const uint8_t mb_trellis_25[2][16] = {{1, 7, 16, 19, 10, 13, 22, 26, 6, 10, 19, 22, 13, 16, 25, 31},
                                             {1, 8, 5, 12, 15, 20, 17, 22, 10, 15, 12, 17, 20, 26, 24, 31}};

/* Where the pair of column c (0..15) lies in the circle: its bits are 2 * place and 2 * place + 1 of the word. */
static inline uint32_t mb_trellis_place(uint32_t c) { return c % 4 * 4 + c / 4; }

/* The window of column c, from the word of its 16 columns, as with 2 bits. */
static inline uint32_t mb_trellis_window(uint32_t word, uint32_t c) {
  const uint64_t circle = (uint64_t)word << 32 | word;           /* twice, so that nothing is cut */
  const uint64_t own = circle >> (2 * mb_trellis_place(c) + 26); /* bits 0-1: the third pair before, 6-7: its own */
  return (uint32_t)((own >> 1 ^ own >> 3) & 1) | (uint32_t)(own >> 4 & 14);
}

/* Entry of column c, from the word of its 16 columns and its bit of the plane, if it has one. */
static inline uint32_t mb_trellis_entry_2(uint32_t word, uint32_t c) {
  return mb_trellis_2[mb_trellis_window(word, c)];
}
static inline uint32_t mb_trellis_entry_3(uint32_t word, uint32_t c, uint32_t plane) {
  return mb_trellis_3[(mb_trellis_window(word, c) & 13) | plane << 1];
}
static inline uint32_t mb_trellis_entry_25(uint32_t word, uint32_t c, uint32_t plane) {
  const uint32_t window = mb_trellis_window(word, c);
  return c / 4 % 2 == 0 ? mb_trellis_25[0][(window & 13) | plane << 1] : mb_trellis_25[1][window];
}

#endif

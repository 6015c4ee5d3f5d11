/* The codes of MB_FORMAT_TRELLIS2 and MB_FORMAT_TRELLIS3: a weight's code is looked up by the stored bits around it.
 *
 * The tables hold code + 16, 1..31, so that a kernel multiplies them like 5-bit affine codes. They were trained on
 * Gaussian weights by Lloyd's algorithm on the trellis and rounded to whole numbers; one of a code is worth 1/7.1
 * (2 bits) and 1/4.6 (3 bits) of the weights' standard deviation. Trellis-coded quantisation: Marcellin and Fischer
 * 1990; a table indexed by a window of the bits: Tseng et al. 2024, "QTIP" (arXiv:2406.11235), section 3. */
#ifndef MB_PACKED_TRELLIS_LAYOUT_H
#define MB_PACKED_TRELLIS_LAYOUT_H

#include <stdint.h>

#define MB_TRELLIS_OFFSET 16  /* what a table's entry is above its code */
#define MB_TRELLIS_COLUMNS 16 /* columns whose bits go round in one circle */

/* Bits 0-1: the pair before, bits 2-3: the weight's own pair. */
static const uint8_t mb_trellis_2[16] = {5, 12, 1, 9, 12, 18, 8, 15, 17, 24, 14, 20, 24, 31, 21, 27};
/* Bit 0: the high bit of the pair before, bits 1-2: the weight's own pair, bit 3: its bit of the plane. */
static const uint8_t mb_trellis_3[16] = {5, 8, 12, 14, 10, 12, 14, 16, 16, 18, 20, 22, 18, 20, 24, 27};

/* Where the pair of column c (0..15) lies in the circle: its bits are 2 * place and 2 * place + 1 of the word. */
static inline uint32_t mb_trellis_place(uint32_t c) { return c % 4 * 4 + c / 4; }
/* The word of 16 columns twice, so that no window is cut. */
static inline uint64_t mb_trellis_circle(uint32_t word) { return (uint64_t)word << 32 | word; }

/* Entry of column c, from the word of its 16 columns and, with 3 bits, its bit of the plane. */
static inline uint32_t mb_trellis_entry_2(uint32_t word, uint32_t c) {
  return mb_trellis_2[mb_trellis_circle(word) >> (2 * mb_trellis_place(c) + 30) & 15];
}
static inline uint32_t mb_trellis_entry_3(uint32_t word, uint32_t c, uint32_t plane) {
  return mb_trellis_3[(mb_trellis_circle(word) >> (2 * mb_trellis_place(c) + 31) & 7) | plane << 3];
}

#endif

/* Rules of activation quantisation that every kernel shares (kernels.h, mb_activations). */
#ifndef MB_KERNELS_QUANTISE_H
#define MB_KERNELS_QUANTISE_H

#include <string.h>

#include "base/half.h"
#include "kernels/kernels.h"

/* A group whose largest value is smaller than this becomes zeros: its scale would be nearly subnormal and 127 / a could
 * overflow. Above it a subnormal value always has code 0, so that it does not matter that armv7's NEON takes it for 0.
 * Compared as bits, of which infinities and NaNs have more than every number. */
#define MB_SMALLEST_MAXIMUM 0x1p-100f
#define MB_INFINITY_BITS 0x7f800000u
#define MB_NAN_BITS 0x7fc00000u /* the NaN that every processor gives */
/* Adding this to |v| < 2^22 leaves v, rounded to nearest even, in the low bits of the sum. */
#define MB_ROUND_TO_INTEGER 0x1.8p+23f
#define MB_ROUND_TO_INTEGER_BITS 0x4b400000

typedef struct {
  float scale, inverse; /* inverse 0: all codes are 0, and no arithmetic on the values, which may be infinite */
} mb_group_scale;

static inline mb_group_scale mb_scale_of_maximum(uint32_t maximum_bits) {
  if (maximum_bits < mb_float_bits(MB_SMALLEST_MAXIMUM)) return (mb_group_scale){0, 0};
  if (maximum_bits >= MB_INFINITY_BITS) return (mb_group_scale){mb_bits_float(MB_NAN_BITS), 0};
  float a = mb_bits_float(maximum_bits);
  return (mb_group_scale){a / 127.0f, 127.0f / a};
}

/* Columns of group g of a vector: with group 0 the whole vector. */
static inline uint32_t mb_group_columns(const mb_activations *x) { return x->group != 0 ? x->group : x->padded; }

/* The codes of vectors first..last-1 to their places in the panel; see mb_activations.panel. */
static inline void mb_fill_panel(mb_activations *x, uint32_t first, uint32_t last) {
  if (x->count < 2) return;
  uint32_t vectors = mb_round_up(x->count, 4);
  size_t row = (size_t)vectors * 4;
  /* A cache line of each vector at a time, four columns of all vectors together: both sides stay in L1. */
  for (uint32_t c0 = 0; c0 < x->padded; c0 += 64)
    for (uint32_t c = c0; c < c0 + 64; c += 4) {
      int8_t *to = x->panel + c / 4 * row;
      for (uint32_t n = first; n < last; n++) memcpy(to + 4 * n, x->codes + (size_t)n * x->padded + c, 4);
      if (last == x->count) memset(to + 4 * last, 0, 4 * (vectors - last));
    }
}

/* One group: its codes, their scale and their sum. */
typedef void (*mb_quantise_group)(const float *values, uint32_t columns, int8_t *codes, float *scale, int32_t *sum);

/* mb_kernels.quantise, with an instruction set's own way to do a group. */
static inline void mb_quantise_vectors(mb_activations *x, uint32_t first, uint32_t last, mb_quantise_group group_of) {
  uint32_t columns = mb_group_columns(x);
  for (uint32_t n = first; n < last; n++)
    for (uint32_t g = 0; g < x->groups; g++) {
      size_t at = (size_t)n * x->padded + (size_t)g * columns, group = (size_t)n * x->groups + g;
      group_of(x->values + at, columns, x->codes + at, &x->scales[group], &x->sums[group]);
    }
  mb_fill_panel(x, first, last);
}

#endif

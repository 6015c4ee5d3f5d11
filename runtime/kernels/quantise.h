/* Rules of activation quantisation that every kernel shares (kernels.h, mb_activations). */
#ifndef MB_KERNELS_QUANTISE_H
#define MB_KERNELS_QUANTISE_H

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

/* Codes up to `largest`. */
static inline mb_group_scale mb_scale_to_largest(uint32_t maximum_bits, float largest) {
  if (maximum_bits < mb_float_bits(MB_SMALLEST_MAXIMUM)) return (mb_group_scale){0, 0};
  if (maximum_bits >= MB_INFINITY_BITS) return (mb_group_scale){mb_bits_float(MB_NAN_BITS), 0};
  float a = mb_bits_float(maximum_bits);
  return (mb_group_scale){a / largest, largest / a};
}

static inline mb_group_scale mb_scale_of_maximum(uint32_t maximum_bits) {
  return mb_scale_to_largest(maximum_bits, 127.0f);
}

/* Of the weights of a tile of values: kernels.h, mix_int8. large: one of its terms is above MB_LARGE_TERM of all. */
#define MB_LARGE_TERM 0x1p-7f

static inline mb_group_scale mb_scale_of_weights(uint32_t maximum_bits, bool large) {
  return mb_scale_to_largest(maximum_bits, large ? 127.0f * 128.0f : 127.0f);
}

#endif

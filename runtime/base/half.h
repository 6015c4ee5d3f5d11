/* fp16 and bfloat16 in portable C, exact in every case (subnormals, infinities), so that it equals the hardware's
 * conversions (F16C, fcvt) bit for bit; a NaN comes out quiet, as theirs does. */
#ifndef MB_BASE_HALF_H
#define MB_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t mb_float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static inline float mb_bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static inline float mb_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) { /* infinity or NaN */
    uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0;
    return mb_bits_float(sign | 0x7f800000u | quiet | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude >= 0x0400u) return mb_bits_float(sign | ((magnitude << 13) + (112u << 23)));
  /* Zero or subnormal: magnitude * 2^-24, a normal float32 and exact. */
  return mb_bits_float(sign | mb_float_bits((float)magnitude * 0x1p-24f));
}

/* Round to nearest even; too large becomes infinity. */
static inline uint16_t mb_f32_to_f16(float f) {
  uint32_t u = mb_float_bits(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 and above */
  if (magnitude >= 0x38800000u) {                                  /* normal in fp16 */
    uint32_t rounded = magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | rounded >> 13); /* a carry out of 65504 gives infinity's code, as it should */
  }
  /* Subnormal in fp16: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded to nearest even by the add. */
  uint32_t rounded = mb_float_bits(mb_bits_float(magnitude) + 0.5f) - 0x3f000000u;
  return (uint16_t)(sign | rounded);
}

static inline float mb_bf16_to_f32(uint16_t h) { return mb_bits_float((uint32_t)h << 16); }

#endif

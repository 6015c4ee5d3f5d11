/* Blocks of keys, values and queries to codes, in plain C: one text for all tables, each compiled for its processor.
 *
 * A fragment of scalar.c, avx2.c, neon.c and neon_dotprod.c. It defines kv_codes_8() and kv_codes_4(), the table's
 * entries. */
#ifndef MB_KERNELS_KV_CODES_IMPL_H
#define MB_KERNELS_KV_CODES_IMPL_H

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/quantise.h"

/* As bits, of which infinities and NaNs have more than every number: so compilers vectorise it. */
static inline uint32_t kv_largest(const float v[MB_KV_BLOCK]) {
  uint32_t most = 0;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    const uint32_t magnitude = mb_float_bits(v[i]) & 0x7fffffffu;
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

static void kv_codes_8(const float *v, uint32_t blocks, int8_t *codes, float *scales, int32_t *sums) {
  for (uint32_t b = 0; b < blocks; b++, v += MB_KV_BLOCK, codes += MB_KV_BLOCK) {
    const uint32_t most = kv_largest(v);
    int32_t sum = 0;
    if (most >= MB_INFINITY_BITS) {
      memset(codes, 0, MB_KV_BLOCK);
      scales[b] = NAN;
      sums[b] = 0;
      continue;
    }
    const float maximum = mb_bits_float(most), inverse = maximum > 1e-30f ? 127.0f / maximum : 0.0f;
    int32_t all[MB_KV_BLOCK];
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++)
      all[i] = (int32_t)(mb_float_bits(v[i] * inverse + MB_ROUND_TO_INTEGER) - MB_ROUND_TO_INTEGER_BITS);
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++) codes[i] = (int8_t)all[i];
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++) sum += all[i];
    sums[b] = sum;
    scales[b] = inverse > 0 ? maximum / 127.0f : 0.0f;
  }
}

/* One block to codes in [-8, 7]; returns their scale. The largest value gets the code -8, by a scale of its opposite
 * sign: so all 16 codes are used. Then the scale that suits the codes best. */
static float kv_codes_4(const float v[MB_KV_BLOCK], int8_t codes[MB_KV_BLOCK]) {
  const uint32_t magnitude = kv_largest(v);
  if (magnitude >= MB_INFINITY_BITS) {
    memset(codes, 0, MB_KV_BLOCK);
    return NAN;
  }
  uint32_t first = 0;
  while ((mb_float_bits(v[first]) & 0x7fffffffu) != magnitude) first++;
  const float most = v[first], inverse = fabsf(most) > 1e-30f ? -8.0f / most : 0.0f;
  int32_t squares = 0;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) {
    const int32_t code = (int32_t)(mb_float_bits(v[i] * inverse + MB_ROUND_TO_INTEGER) - MB_ROUND_TO_INTEGER_BITS);
    codes[i] = (int8_t)(code > 7 ? 7 : code);
    squares += codes[i] * codes[i];
  }
  float products = 0;
  for (uint32_t i = 0; i < MB_KV_BLOCK; i++) products += v[i] * (float)codes[i];
  return inverse != 0 ? products / (float)squares : 0.0f;
}

#endif

/* Sizes that cannot wrap. A sum or product that does not fit 64 bits is MB_TOO_LARGE and stays so (a product with 0 is
 * 0), so a whole expression is written with these and its result is compared once: with a limit, or by mb_size_fits. */
#ifndef MB_BASE_SIZES_H
#define MB_BASE_SIZES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MB_TOO_LARGE UINT64_MAX

static inline uint64_t mb_size_add(uint64_t a, uint64_t b) {
  uint64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? MB_TOO_LARGE : sum;
}

static inline uint64_t mb_size_multiply(uint64_t a, uint64_t b) {
  uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? MB_TOO_LARGE : product;
}

/* Up to the next multiple of `multiple`, which is not 0. */
static inline uint64_t mb_size_round_up(uint64_t n, uint64_t multiple) {
  const uint64_t rest = n % multiple;
  return rest ? mb_size_add(n, multiple - rest) : n;
}

/* Whether this process can hold an object of so many bytes: 2 GiB less one on 32 bits. */
static inline bool mb_size_fits(uint64_t bytes) { return bytes <= PTRDIFF_MAX; }

#endif

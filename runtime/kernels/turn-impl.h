/* Blocks turned by a Hadamard matrix, in plain C: what defines it, and fast enough for NEON.
 *
 * A fragment of scalar.c, neon.c and neon_dotprod.c. It defines turn(), the table's entry. */
#ifndef MB_KERNELS_TURN_IMPL_H
#define MB_KERNELS_TURN_IMPL_H

#include "kernels/kernels.h"

/* A stage of the fast transform adds and subtracts neighbours and leaves the sums before the differences: after five of
 * them every value is at its place again, and every stage is the same loop over whole vectors. */
static inline void turn_stage(const float in[MB_KV_BLOCK], float out[MB_KV_BLOCK]) {
  for (uint32_t i = 0; i < MB_KV_BLOCK / 2; i++) {
    const float x = in[2 * i], y = in[2 * i + 1];
    out[i] = x + y;
    out[i + MB_KV_BLOCK / 2] = x - y;
  }
}

static void turn(float *v, uint32_t blocks) {
  float a[MB_KV_BLOCK], b[MB_KV_BLOCK];
  for (; blocks > 0; blocks--, v += MB_KV_BLOCK) {
    turn_stage(v, a);
    turn_stage(a, b);
    turn_stage(b, a);
    turn_stage(a, b);
    turn_stage(b, a);
    for (uint32_t i = 0; i < MB_KV_BLOCK; i++) v[i] = a[i] * MB_TURN_SCALE;
  }
}

#endif

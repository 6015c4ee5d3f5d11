/* Quantising activations: all but what one group takes, which every instruction set does in its own way.
 *
 * A fragment of scalar.c, avx2.c and neon_functions-impl.h. Define before it is included:
 *   quantise_group(values, columns, codes, scale, sum)  one group: its codes, their scale and their sum, by the rules
 * of quantise.h It defines quantise(), the table's entry. */
#ifndef MB_KERNELS_QUANTISE_IMPL_H
#define MB_KERNELS_QUANTISE_IMPL_H

#include <string.h>

#include "kernels/kernels.h"

/* The codes of vectors first..last-1 to their places in the panel; see mb_activations.panel. */
static void fill_panel(mb_activations *x, uint32_t first, uint32_t last) {
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

static void quantise(mb_activations *x, uint32_t first, uint32_t last) {
  const uint32_t columns = x->group != 0 ? x->group : x->padded;
  for (uint32_t n = first; n < last; n++)
    for (uint32_t g = 0; g < x->groups; g++) {
      const size_t at = (size_t)n * x->padded + (size_t)g * columns, group = (size_t)n * x->groups + g;
      quantise_group(x->values + at, columns, x->codes + at, &x->scales[group], &x->sums[group]);
    }
  fill_panel(x, first, last);
}

#endif

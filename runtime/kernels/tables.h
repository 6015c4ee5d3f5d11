/* The tables that select.c chooses from; each exists where the build defines its macro. */
#ifndef MB_KERNELS_TABLES_H
#define MB_KERNELS_TABLES_H

#include "kernels/kernels.h"

extern const mb_kernels mb_scalar_kernels;
extern const mb_kernels mb_avx2_kernels;       /* MB_HAVE_AVX2 */
extern const mb_kernels mb_avx2_ahead_kernels; /* the same, prefetching: see avx2_common.h */
extern const mb_kernels mb_avx512_kernels;     /* both again, signs and attention by AVX-512: avx512.h */
extern const mb_kernels mb_avx512_ahead_kernels;
extern const mb_kernels mb_neon_kernels;         /* MB_HAVE_NEON */
extern const mb_kernels mb_neon_dotprod_kernels; /* MB_HAVE_NEON_DOTPROD */

/* A table of functions that have the names of the table's entries. */
#define MB_KERNEL_TABLE(table_name, multiply_function) \
  {                                                    \
      .name = table_name,                              \
      .quantise = quantise,                            \
      .multiply = multiply_function,                   \
      .scores_int8 = scores_int8,                      \
      .scores_int4 = scores_int4,                      \
      .mix_int8 = mix_int8,                            \
      .mix_int4 = mix_int4,                            \
      .kv_codes_8 = kv_codes_8,                        \
      .kv_codes_4 = kv_codes_4,                        \
      .turn = turn,                                    \
      .coarsen = coarsen,                              \
      .scores_f16 = scores_f16,                        \
      .mix_f16 = mix_f16,                              \
      .sum_squares = sum_squares,                      \
      .silu_multiply = silu_multiply,                  \
      .gelu_multiply = gelu_multiply,                  \
      .softmax_terms = softmax_terms,                  \
  }

#endif

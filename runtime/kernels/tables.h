/* The tables that select.c chooses from; each exists where the build defines its macro. */
#ifndef MB_KERNELS_TABLES_H
#define MB_KERNELS_TABLES_H

#include "kernels/kernels.h"

extern const mb_kernels mb_scalar_kernels;
extern const mb_kernels mb_avx2_kernels;         /* MB_HAVE_AVX2 */
extern const mb_kernels mb_avx2_ahead_kernels;   /* the same, prefetching: see avx2_matvec.h */
extern const mb_kernels mb_neon_kernels;         /* MB_HAVE_NEON */
extern const mb_kernels mb_neon_dotprod_kernels; /* MB_HAVE_NEON_DOTPROD */

#endif

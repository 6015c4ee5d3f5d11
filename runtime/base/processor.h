/* Which instructions this processor has and the system lets programs use. Asked at run time: one build runs on all. */
#ifndef MB_BASE_PROCESSOR_H
#define MB_BASE_PROCESSOR_H

#include <stdbool.h>

/* x86-64; false elsewhere. AVX2 includes F16C here, as the kernels use both. */
bool mb_processor_has_avx2(void);
/* AVX2, and the parts of AVX-512 that the kernels use: F, BW, DQ, VL and VNNI. */
bool mb_processor_has_avx512(void);
bool mb_processor_has_fma(void);
bool mb_processor_is_intel(void);

/* ARM; false elsewhere. */
bool mb_processor_has_neon(void);
bool mb_processor_has_dotprod(void);

#endif

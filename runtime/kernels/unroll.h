/* How often compilers write a loop's body. */
#ifndef MB_KERNELS_UNROLL_H
#define MB_KERNELS_UNROLL_H

/* Unroll the next loop four times (gcc does not by itself), or not at all (it keeps too much in registers, then not).
 */
#if defined(__clang__)
#define UNROLL_4 _Pragma("unroll 4")
#define UNROLL_NOT _Pragma("clang loop unroll(disable)")
#else
#define UNROLL_4 _Pragma("GCC unroll 4")
#define UNROLL_NOT _Pragma("GCC unroll 1")
#endif

#endif

/* Which kernel tables this processor can run. The build defines MB_HAVE_AVX2, MB_HAVE_NEON and MB_HAVE_NEON_DOTPROD
 * for the tables it compiled; whether the processor has the instructions is asked here, at run time. */
#include <string.h>

#include "kernels.h"
#include "tables.h"

#if defined(MB_HAVE_AVX2)
#include <cpuid.h>
#endif
#if defined(MB_HAVE_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(MB_HAVE_AVX2)
/* By cpuid itself: __builtin_cpu_supports needs a run-time library that static musl builds by zig lack. */
static bool has_avx2(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 27 /* OSXSAVE */ | 1u << 28 /* AVX */ | 1u << 29 /* F16C */;
  if ((c & needed) != needed) return false;
  unsigned low, high; /* XCR0: the system saves the xmm (bit 1) and ymm (bit 2) registers */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6u) != 6u) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 5 /* AVX2 */) != 0;
}

/* Both AVX2 tables do the same; which is faster depends on who made the processor's memory prefetch. */
static const mb_kernels *avx2_table(void) {
  unsigned a, b, c, d;
  bool intel = __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && d == signature_INTEL_edx;
  return intel ? &mb_avx2_ahead_kernels : &mb_avx2_kernels;
}
#endif

#if defined(MB_HAVE_NEON)
static bool has_neon(void) {
#if defined(__aarch64__)
  return true; /* part of the architecture */
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & 1ul << 12 /* HWCAP_NEON */) != 0;
#else
  return false;
#endif
}
#endif

#if defined(MB_HAVE_NEON_DOTPROD)
static bool has_dotprod(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & 1ul << 20 /* HWCAP_ASIMDDP */) != 0;
#else
  return false;
#endif
}
#endif

/* Best first. What a processor can run is always an end of this list: one with dot products has NEON too. */
static const mb_kernels *const tables[] = {
#if defined(MB_HAVE_AVX2)
    &mb_avx2_kernels,
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
    &mb_neon_dotprod_kernels,
#endif
#if defined(MB_HAVE_NEON)
    &mb_neon_kernels,
#endif
    &mb_scalar_kernels,
};
static const char *const names[] = {
#if defined(MB_HAVE_AVX2)
    "avx2",
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
    "neon_dotprod",
#endif
#if defined(MB_HAVE_NEON)
    "neon",
#endif
    "scalar",       NULL,
};
#define TABLES (sizeof tables / sizeof *tables)

static size_t first_runnable(void) {
  size_t first = 0;
#if defined(MB_HAVE_AVX2)
  if (first == 0 && !has_avx2()) first = 1;
#endif
#if defined(MB_HAVE_NEON_DOTPROD)
  if (first == 0 && !has_dotprod()) first = 1;
#endif
#if defined(MB_HAVE_NEON)
  if (first == TABLES - 2 && !has_neon()) first = TABLES - 1;
#endif
  return first;
}

static const mb_kernels *table_at(size_t i) {
#if defined(MB_HAVE_AVX2)
  if (tables[i] == &mb_avx2_kernels) return avx2_table();
#endif
  return tables[i];
}

const mb_kernels *mb_kernels_select(const char *name) {
  size_t first = first_runnable();
  if (name == NULL || strcmp(name, "auto") == 0) return table_at(first);
  for (size_t i = first; i < TABLES; i++)
    if (strcmp(name, names[i]) == 0) return table_at(i);
  return NULL;
}

const char *const *mb_kernels_available(void) { return names + first_runnable(); }

#include "base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* By cpuid itself: __builtin_cpu_supports needs a run-time library that static musl builds by zig lack. */
bool mb_processor_has_avx2(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 27 /* OSXSAVE */ | 1u << 28 /* AVX */ | 1u << 29 /* F16C */;
  if ((c & needed) != needed) return false;
  unsigned low, high; /* XCR0: the system saves the xmm (bit 1) and ymm (bit 2) registers */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6u) != 6u) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 5 /* AVX2 */) != 0;
}

bool mb_processor_has_avx512(void) {
  unsigned a, b, c, d;
  if (!mb_processor_has_avx2()) return false;
  unsigned low, high; /* XCR0: the system saves mask registers (bit 5) and all of the zmm registers (bits 6 and 7) */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0xe0u) != 0xe0u) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 16 /* F */ | 1u << 17 /* DQ */ | 1u << 30 /* BW */ | 1u << 31 /* VL */;
  return (b & needed) == needed && (c & 1u << 11 /* VNNI */) != 0;
}

bool mb_processor_has_fma(void) {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 12) != 0;
}

bool mb_processor_is_intel(void) {
  unsigned a, b, c, d;
  return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && d == signature_INTEL_edx;
}
#else
bool mb_processor_has_avx2(void) { return false; }
bool mb_processor_has_avx512(void) { return false; }
bool mb_processor_has_fma(void) { return false; }
bool mb_processor_is_intel(void) { return false; }
#endif

#if defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>

static bool has(unsigned bit) { return (getauxval(AT_HWCAP) >> bit & 1) != 0; }
#endif

#if defined(__aarch64__)
bool mb_processor_has_neon(void) { return true; /* part of the architecture */ }
#elif defined(__arm__) && defined(__linux__)
bool mb_processor_has_neon(void) { return has(12 /* HWCAP_NEON */); }
#else
bool mb_processor_has_neon(void) { return false; }
#endif

#if defined(__aarch64__) && defined(__linux__)
bool mb_processor_has_dotprod(void) { return has(20 /* HWCAP_ASIMDDP */); }
#else
bool mb_processor_has_dotprod(void) { return false; }
#endif

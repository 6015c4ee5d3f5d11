#include "base/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>

static pthread_once_t asked = PTHREAD_ONCE_INIT;
static bool has_avx2, has_avx512, has_fma, is_intel;

/* By cpuid itself: __builtin_cpu_supports needs a run-time library that static musl builds by zig lack. Once: in a
 * virtual machine the host answers each cpuid, which takes microseconds. */
static void ask(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return;
  is_intel = b == signature_INTEL_ebx && d == signature_INTEL_edx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  has_fma = (c & 1u << 12) != 0;
  const unsigned needed = 1u << 27 /* OSXSAVE */ | 1u << 28 /* AVX */ | 1u << 29 /* F16C */;
  if ((c & needed) != needed) return;
  unsigned low, high; /* XCR0: which registers the system saves */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6u) != 6u /* xmm and ymm */ || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
  has_avx2 = (b & 1u << 5) != 0;
  const unsigned parts = 1u << 16 /* F */ | 1u << 17 /* DQ */ | 1u << 30 /* BW */ | 1u << 31 /* VL */;
  has_avx512 = has_avx2 && (low & 0xe0u) == 0xe0u /* mask registers and all of the zmm ones */ &&
               (b & parts) == parts && (c & 1u << 11 /* VNNI */) != 0;
}

static bool answer(const bool *what) {
  pthread_once(&asked, ask);
  return *what;
}

bool mb_processor_has_avx2(void) { return answer(&has_avx2); }
bool mb_processor_has_avx512(void) { return answer(&has_avx512); }
bool mb_processor_has_fma(void) { return answer(&has_fma); }
bool mb_processor_is_intel(void) { return answer(&is_intel); }
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

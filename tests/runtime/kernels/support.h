/* Random numbers, memory that ends at a page which may not be touched, and failure reports. */
#ifndef MB_TEST_SUPPORT_H
#define MB_TEST_SUPPORT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long failures, checks;

static inline bool check(bool ok, const char *format, ...) {
  checks++;
  if (ok) return true;
  if (++failures <= 20) {
    va_list list;
    va_start(list, format);
    printf("FAILED: ");
    vprintf(format, list);
    printf("\n");
    va_end(list);
  }
  return false;
}

static inline uint32_t random_bits(void) {
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 24);
}

static inline uint32_t random_below(uint32_t n) { return random_bits() % n; }
static inline int random_kv_code(void) { return (int)random_below(255) - 127; }
static inline float random_unit(void) { return (float)(random_bits() & 0xffffff) * 0x1p-23f - 1.0f; } /* [-1, 1) */

/* `bytes` bytes that end (but for alignment to 4) at a page without access: a kernel that reads or writes one byte too
 * many ends the test with a fault. Zeroed. */
typedef struct {
  void *at, *mapping;
  size_t mapped, bytes;
} guarded;

static inline guarded guarded_new(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
  guarded g = {.mapped = used + page, .bytes = bytes};
  g.mapping = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (g.mapping == MAP_FAILED || mprotect((char *)g.mapping + used, page, PROT_NONE) != 0) {
    perror("mmap");
    exit(2);
  }
  g.at = (char *)g.mapping + used - (bytes + 3) / 4 * 4;
  return g;
}

static inline void guarded_free(guarded *g) { munmap(g->mapping, g->mapped); }

#endif

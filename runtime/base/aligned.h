/* Memory that begins at a cache line. aligned_alloc is newer than the oldest Android, posix_memalign is not. */
#ifndef MB_BASE_ALIGNED_H
#define MB_BASE_ALIGNED_H

#include <stddef.h>
#include <stdlib.h>

enum { MB_CACHE_LINE = 64 };

/* Release it with free(). NULL: no memory. `bytes` may be 0. */
static inline void *mb_aligned_malloc(size_t bytes) {
  void *memory;
  return posix_memalign(&memory, MB_CACHE_LINE, bytes ? bytes : 1) == 0 ? memory : NULL;
}

#endif

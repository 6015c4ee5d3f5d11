/* What this process costs, as the kernel counts it (/proc/self/status and /proc/self/stat). */
#ifndef MB_RUNNER_PROCESS_MEMORY_H
#define MB_RUNNER_PROCESS_MEMORY_H

#include <stdint.h>

typedef struct {
  uint64_t peak_rss_bytes;  /* VmHWM */
  uint64_t anonymous_bytes; /* RssAnon */
  uint64_t file_bytes;      /* RssFile: clean pages of the bundle, which the kernel may drop and read again */
  uint64_t swap_bytes;      /* VmSwap */
  uint64_t major_faults;    /* pages that had to come from storage */
} process_memory;

/* Zeros where /proc does not say. Nothing that mobile-run allocates is given back before it ends, so anonymous plus
 * swap at the end is their peak. */
process_memory process_memory_read(void);
/* Bytes of this program that are mapped from its file: its code and constants, of which Linux brings in whole pieces
 * around what is used. 0 where the kernel does not say. */
uint64_t process_program_bytes(void);

#endif

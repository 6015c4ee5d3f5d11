#ifndef MB_BASE_CLOCK_H
#define MB_BASE_CLOCK_H

#include <time.h>

/* Seconds on a clock that never jumps. */
static inline double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif

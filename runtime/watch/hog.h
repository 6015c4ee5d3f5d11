#ifndef MB_WATCH_HOG_H
#define MB_WATCH_HOG_H

#include <stdint.h>

/* Takes anonymous memory and holds it until standard input closes, or `seconds` are over (0: without end).
 * Returns the exit code: 0, or 1 with a line on standard error when the address space is too small. */
int hog_run(uint64_t bytes, double seconds);

#endif

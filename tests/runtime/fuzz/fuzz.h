/* What the fuzz targets and their driver share. */
#ifndef MB_FUZZ_H
#define MB_FUZZ_H

#include <stddef.h>
#include <stdint.h>

enum { FUZZ_GROWTH = 256 << 10 /* bytes by which an input may be longer than its seed file */ };

/* A target (libFuzzer's name for it): uses any bytes; ends the process where something is wrong. `data` is aligned to
 * 64, and nothing behind it may be read. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Changes an input in place; gives the new size, up to `most`. A target may bring its own; the driver has one that
 * knows nothing of formats: fuzz_bytes. */
size_t fuzz_mutate(uint8_t *data, size_t size, size_t most);
/* Bits, bytes, numbers that sizes break at, copied runs, a cut. */
size_t fuzz_bytes(uint8_t *data, size_t size);

/* The input's own random numbers. */
uint64_t fuzz_random(void);
uint32_t fuzz_below(uint32_t n);
/* A number that sizes and offsets break at, or one beside it. */
uint64_t fuzz_edge(void);

#endif

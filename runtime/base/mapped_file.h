/* Which file lies behind mapped memory: for runtimes that map weights.ptd themselves and hand over pointers into it. */
#ifndef MB_BASE_MAPPED_FILE_H
#define MB_BASE_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The path of the file of which [address, address + bytes) is a mapping, and where in it the address lies, by
 * /proc/self/maps. false: it does not map a file (a heap, a buffer), the file has been removed or replaced since,
 * or its path does not fit. Costs some hundred microseconds: once per load, not per token. */
bool mb_mapped_file(const void *address, uint64_t bytes, char *path, size_t capacity, uint64_t *offset);

#endif

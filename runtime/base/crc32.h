/* CRC-32 as zlib computes it (polynomial 0xEDB88320): mb_crc32(0, data, n) == zlib.crc32(data). */
#ifndef MB_BASE_CRC32_H
#define MB_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t mb_crc32(uint32_t crc, const void *data, size_t bytes);

#endif

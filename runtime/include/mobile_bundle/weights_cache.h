/* weights.cache: the packed forms of the stored tensors of one weights.ptd, made from it when it is installed.
 *
 * It belongs to the device that made it, not to the bundle: it may be removed at any time and is then made again.
 * Its structure is that of weights.ptd without the flatbuffer, so the same reader checks both:
 *
 *   0       four zero bytes and "FT01"; at byte 8 FlatTensor's fixed header (weights_index.h) without a flatbuffer: its
 *           offset and size are 0, the segment base is 16384
 *   64      mb_cache_identity; zeros up to 16384
 *   16384   the index: mb_index_header, the mb_model_config of weights.ptd, a record for every stored tensor, names
 *   ...     their packed blobs, in the order that the stored ones have in weights.ptd, each at the next multiple of 64
 *
 * A tensor is looked up here first, then in weights.ptd. */
#ifndef MOBILE_BUNDLE_WEIGHTS_CACHE_H
#define MOBILE_BUNDLE_WEIGHTS_CACHE_H

#include <assert.h>
#include <stdint.h>

#define MB_CACHE_MAGIC "MBCACHE\0"
#define MB_CACHE_VERSION 1 /* also counts changes of what a decoder gives */
#define MB_CACHE_IDENTITY_OFFSET 64

/* A cache whose identity is not, byte for byte, that of the weights.ptd beside it is ignored and made again. The
 * index holds the checksum of every blob, so its own stands for the whole file. */
typedef struct {
  char magic[8];         /* "MBCACHE\0" */
  uint32_t version;      /* MB_CACHE_VERSION */
  uint32_t source_crc32; /* crc32 of the weights.ptd's mb_index_header */
  uint64_t source_bytes; /* size of the weights.ptd */
  uint8_t reserved[40];  /* 0 */
} mb_cache_identity;

static_assert(sizeof(mb_cache_identity) == 64, "the identity of a cache is 64 bytes");

#endif

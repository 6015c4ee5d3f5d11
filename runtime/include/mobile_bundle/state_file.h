/* A session's state: what it holds of a text that was read, so that it need not be read again.
 *
 *   mb_state_header, 64 bytes
 *   int32[position]: the tokens
 *   the KV cache, piece after piece without gaps: keys, values, scales of keys, scales of values (the scales are there
 *   with MB_KV_F16 not). Each of the four: for every layer that sees all positions, in their order, and every KV head
 *   the vectors of positions 0..position-1; then for every layer with a sliding window and every KV head the first
 *   min(written, ring) slots of its ring. With MB_KV_F16 a vector is head_dim rounded up to 32 values, fp16. Otherwise
 *   positions and slots are rounded up to whole groups of 16, and lie as runtime/kernels/kv_layout.h says.
 *   With MB_KV_INT4 these are the positions in 4 bits alone: from 64 on up to that of the last token's position - 32
 *   rounded down to a multiple of 64 (of a ring min(those of written, ring) slots). Behind them come those in 8 bits,
 *   the same four again, for the layers in the same order and every KV head: of positions 0..min(position, 64)-1, then
 *   the first min(written - 64, fine ring) slots of a ring that begins with position 64 and holds 96 positions and a
 *   prefill chunk, rounded up to 64, at most the context.
 *   Then for every layer with a short convolution the first min(written, ring) slots of its ring: float32[hidden] each.
 *
 * It belongs to the weights.ptd that it was made with and to the type of the KV cache; it does not depend on threads,
 * kernels or the context, as long as that has room. */
#ifndef MOBILE_BUNDLE_STATE_FILE_H
#define MOBILE_BUNDLE_STATE_FILE_H

#include <assert.h>
#include <stdint.h>

#define MB_STATE_MAGIC "MBSTATE\0"
#define MB_STATE_VERSION 2
#define MB_STATE_VERSION_INT4 3 /* of MB_KV_INT4 */

typedef struct {
  char magic[8];          /* "MBSTATE\0" */
  uint32_t version;       /* MB_STATE_VERSION, or the one of kv_type */
  uint32_t crc32;         /* CRC-32 (zlib's) of this header with this field 0 */
  uint64_t file_bytes;    /* size of this file */
  uint64_t model_bytes;   /* size of the weights.ptd */
  uint32_t model_crc32;   /* of its index, which holds the checksum of every tensor */
  uint32_t content_crc32; /* CRC-32 of everything behind this header */
  uint64_t layout;        /* FNV-1a 64 of kv_type (uint32) and of the size of each piece of the cache (uint64) */
  uint32_t kv_type;       /* mb_kv_type */
  uint32_t position;      /* tokens that the session holds; at least 1 */
  uint32_t written;       /* one behind the last position that is in the rings; at least position */
  uint32_t reserved;      /* 0 */
} mb_state_header;

static_assert(sizeof(mb_state_header) == 64, "the header of a state is 64 bytes");

#endif

/* Which bytes of a packed payload belong together: the streams that the rANS stage codes with models of their own.
 *
 * A payload is a sequence of parts, a part a number of equal units. A unit of each kind becomes these symbols:
 *   SPLIT a, b:     its first a bytes to stream 0, the other b bytes to stream 1 (b may be 0);
 *   INTERLEAVED p:  byte i to stream i: the bytes of p-byte numbers (2 or 4);
 *   THREE_BITS:     192 bytes, 32 columns of AFFINE3 (L0, L1, H of 64 bytes): 256 symbols to stream 0, two codes each,
 *                   byte i of the blocks giving symbols
 *                     i: L0[i] % 16 + (H[i] % 4) * 16            64 + i: L0[i] / 16 + (H[i] / 4 % 4) * 16
 *                     128 + i: L1[i] % 16 + (H[i] / 16 % 4) * 16 192 + i: L1[i] / 16 + (H[i] / 64) * 16
 *                   (the high bit of a code says much about its low bits: apart they would take more);
 *   INDICES b:      b bytes, 8 indices of 9 to 16 bits: the high 8 bits of each to stream 0; the low bits, packed as
 *                   the indices were, b - 8 bytes, to stream 1.
 * Below, "stream k" counts from the part's first stream; [..] are parts of one record, repeated.
 *   F32: INTERLEAVED 4 (streams 0-3).  BF16: INTERLEAVED 2 (0-1).  INT8: SPLIT 1, 0 (0).
 *   TERNARY2: codes SPLIT 1, 0 (0), row scales INTERLEAVED 4 (1-4).
 *   AFFINE, SIGN1, TRELLIS: [d INTERLEAVED 2 (0-1), m INTERLEAVED 2 (2-3, if there is one), codes (4, or 4-5)], the
 * codes being THREE_BITS of AFFINE3 and TRELLIS3, SPLIT 256, 64 of AFFINE5 and TRELLIS25, SPLIT 128, 64 of AFFINE6
 * (high bits, low bits), else SPLIT 1, 0. SPARSE_TERNARY: per tile [counts INTERLEAVED 4 (0-3), blocks SPLIT 128, 32
 * (4-5)], row scales INTERLEAVED 4 (6-9). VECTOR: codebooks SPLIT v, stride - v (0-1), row scales INTERLEAVED 2 (2-3),
 * outlier columns INTERLEAVED 4 (4-7) and values SPLIT 1, 0 (8), indices [INDICES (9-10), what is left of the row SPLIT
 * 1, 0 (11)], residual indices likewise (12-14); indices of 8 bits are SPLIT 1, 0 (9 or 12). Gaps SPLIT 1, 0 (1, as
 * what fills codebooks up). */
#ifndef MB_STORAGE_STREAMS_H
#define MB_STORAGE_STREAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mobile_bundle/packed_formats.h"

#define MB_STREAMS 15     /* of a payload, at most */
#define MB_PART_STREAMS 4 /* of a part, at most */
#define MB_RECORD_PARTS 3 /* of a record, at most */
#define MB_LAYOUT_RECORDS 12

typedef enum { MB_PART_SPLIT, MB_PART_INTERLEAVED, MB_PART_THREE_BITS, MB_PART_INDICES } mb_part_kind;

typedef struct {
  mb_part_kind kind;
  uint32_t stream;                   /* the part's first */
  uint32_t unit;                     /* bytes of one unit */
  uint32_t symbols[MB_PART_STREAMS]; /* of one unit, per stream */
  uint64_t units;                    /* at least 1 */
} mb_part;

typedef struct {
  uint64_t count; /* how often the record is repeated, at least 1 */
  uint32_t parts; /* at least 1 */
  mb_part part[MB_RECORD_PARTS];
} mb_record;

typedef struct {
  uint32_t records;
  mb_record record[MB_LAYOUT_RECORDS];
} mb_stream_layout;

/* A place in the payload: a unit of a part of a record. */
typedef struct {
  uint32_t record, part;
  uint64_t repeat, unit;
} mb_stream_cursor;

/* The layout of a packed payload, whose header is valid (mb_payload_bytes is not 0, format below 32). */
void mb_stream_layout_of(const mb_blob_header *header, mb_stream_layout *layout);

/* The next run of units that are within `room` bytes; 0 where none fits or the payload has ended. */
uint64_t mb_stream_next(const mb_stream_layout *layout, mb_stream_cursor *cursor, uint64_t room, const mb_part **part);

/* Units to symbols and back. stream[k], for the part's stream k, moves behind what was written or read. */
void mb_stream_split(const mb_part *part, uint64_t units, const uint8_t *packed, uint8_t *stream[MB_PART_STREAMS]);
void mb_stream_merge(const mb_part *part, uint64_t units, const uint8_t *stream[MB_PART_STREAMS], uint8_t *packed);

#endif

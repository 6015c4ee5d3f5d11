/* MB_FORMAT_ENTROPY: a packed blob, compressed without loss. All numbers are little endian.
 *
 * The outer header has the rows and columns of the packed blob, group 0, flags 0, scale 1. Its payload:
 *   0   64 bytes: the header of the packed blob, as it is
 *   64  uint8 method: 0 stored, 1 rANS, 2 deflate, 3 LZMA
 *   65  uint8 LZMA: lc + 9 * (lp + 5 * pb), with lc + lp <= 4; else 0
 *   66  6 zero bytes
 *   72  the body, to the end of the payload
 * stored:  the packed payload.
 * deflate: it as one raw deflate stream (RFC 1951).
 * LZMA:    it as one raw LZMA1 stream with a dictionary of 2^18 bytes, ended by its end marker.
 *
 * rANS. The packed payload is divided into streams of symbols (streams.h: scales apart from codes and so on), each with
 * its own models. It is cut into chunks: a chunk takes units (streams.h) in order, until the next one would make it
 * larger than MB_ENTROPY_CHUNK bytes of packed payload. The body is, chunk by chunk, for every stream that has symbols
 * in the chunk, in order:
 *   uint8 mode
 *   MB_MODE_RAW:      the symbols, a byte each
 *   MB_MODE_CONSTANT: one byte, which all symbols are
 *   MB_MODE_MODEL:    a model, then as MB_MODE_SAME
 *   MB_MODE_SAME:     coded by the stream's last model:
 *                     where the stream is coded for the first time, uint32 state[32];
 *                     uint32 n; uint16 word[n]
 * A model is 32 bytes with bit s % 8 of byte s / 8 set where symbol s occurs (at least two do), and for every such s in
 * order its frequency less one: one byte b < 128, or two, 128 + value % 128 then value / 128. The frequencies f add up
 * to 4096; start[s] is the sum of those before s.
 * Symbol i of the chunk's stream is decoded with lane i % 32, x = state[i % 32]:
 *   s: the symbol with start[s] <= x % 4096 < start[s] + f[s]
 *   x = f[s] * (x / 4096) + x % 4096 - start[s];  if x < 65536: x = 65536 * x + the next word
 * States live on from chunk to chunk. Every state starts at 65536 or more and ends at 65536; all words are used. */
#ifndef MB_STORAGE_ENTROPY_H
#define MB_STORAGE_ENTROPY_H

#include "storage/rans.h"
#include "storage/storage.h"

#define MB_ENTROPY_HEAD 72     /* bytes before the body */
#define MB_ENTROPY_CHUNK 65536 /* bytes of packed payload, at most, in one chunk */
#define MB_ENTROPY_DICTIONARY ((size_t)1 << 18)

enum { MB_METHOD_STORED, MB_METHOD_RANS, MB_METHOD_DEFLATE, MB_METHOD_LZMA };
enum { MB_MODE_RAW, MB_MODE_CONSTANT, MB_MODE_MODEL, MB_MODE_SAME };

/* A body that decodes to the payload of `inner`, which has been checked. */
typedef struct {
  const mb_blob_header *inner;
  const uint8_t *data;
  size_t bytes;
  uint8_t properties; /* LZMA's byte */
} mb_entropy_body;

/* Decoders of the methods: hand exactly inner->payload_bytes to the sink. false with a reason, or NULL where the sink
 * stopped. scratch is aligned to 64. */
size_t mb_rans_scratch_bytes(const mb_blob_header *inner);
bool mb_rans_body(const mb_entropy_body *body, mb_rans_decoder decode, void *scratch, mb_sink sink, void *context,
                  const char **reason);
size_t mb_inflate_scratch_bytes(void);
bool mb_inflate_body(const mb_entropy_body *body, void *scratch, mb_sink sink, void *context, const char **reason);
size_t mb_lzma_scratch_bytes(void);
bool mb_lzma_body(const mb_entropy_body *body, void *scratch, mb_sink sink, void *context, const char **reason);

/* mb_entropy_decode (decoders.h) with a given rANS decoder: every one gives the same bytes, which tests see to. */
bool mb_entropy_decode_by(mb_rans_decoder rans, const mb_blob_header *header, const uint8_t *payload, void *scratch,
                          mb_sink sink, void *context, const char **reason);

#endif

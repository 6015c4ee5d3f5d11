/* The encoder of the lossless stage's rANS method (storage/entropy.h), and its decoders by name for the tests. */
#ifndef MB_SEARCH_RANS_ENCODE_H
#define MB_SEARCH_RANS_ENCODE_H

#include "mobile_bundle/mobile_bundle.h"

/* Codes the payload of a packed blob (its header first, `bytes` bytes in all) into the body of an rANS-coded blob.
 * out: room for `capacity` bytes; *written: the body's size, or, where that would be more than `capacity`, 0. */
MB_API mb_status mb_rans_encode(const void *blob, uint64_t bytes, void *out, uint64_t capacity, uint64_t *written);

/* Decodes an entropy-coded blob as mb_decode_stored does, its rANS part with the decoder of that name: "scalar" or
 * "avx2". */
MB_API mb_status mb_entropy_decode_with(const char *decoder, const void *blob, uint64_t bytes, void *out,
                                        uint64_t capacity, uint64_t *written);

#endif

/* Stored forms (packed_formats.h, formats from 32 on) to the packed blobs that kernels compute with.
 *
 * A decoder streams: it reads the mapped blob forwards (perhaps twice) and hands the packed blob to a sink piece by
 * piece. It allocates nothing; what it needs lies in `scratch`, whose size it tells beforehand and which is small
 * (a strip of rows and tables, never a tensor). The bytes are untrusted: whatever they say, a decoder ends with a
 * reason and touches nothing outside of blob and scratch. */
#ifndef MB_STORAGE_STORAGE_H
#define MB_STORAGE_STORAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mobile_bundle/packed_formats.h"

/* Takes the next `bytes` bytes of the packed blob. false: stop (the sink has said why). */
typedef bool (*mb_sink)(void *context, const void *data, size_t bytes);

typedef struct {
  mb_blob_header target; /* the header of the packed blob, its scale not yet known for SEEDLM and LATTICE */
  uint64_t target_bytes; /* header and payload */
  size_t scratch_bytes;
} mb_storage_plan;

/* Checks the header of a stored blob of exactly `available` bytes, and says what it decodes to.
 * false and a static reason where it is damaged or no stored form. */
bool mb_storage_plan_of(const void *blob, uint64_t available, mb_storage_plan *plan, const char **reason);

/* Decodes it: exactly plan->target_bytes go to the sink, the 64-byte header first. `scratch`: plan->scratch_bytes,
 * aligned to 64. false and a reason (NULL where the sink stopped it) otherwise. */
bool mb_storage_decode(const void *blob, uint64_t available, void *scratch, mb_sink sink, void *context,
                       const char **reason);

#endif

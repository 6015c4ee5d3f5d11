/* One decoder per stored form, dispatched by storage.c; each in a file of its name, with the interface of storage.h.
 * `header` has been copied and checked for magic, version, reserved bytes, a finite scale and, but for ENTROPY, the
 * payload size that mb_payload_bytes asks for; `payload` has header->payload_bytes readable bytes. */
#ifndef MB_STORAGE_DECODERS_H
#define MB_STORAGE_DECODERS_H

#include "storage/storage.h"

typedef bool (*mb_storage_planner)(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan,
                                   const char **reason);
typedef bool (*mb_storage_decoder)(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink,
                                   void *context, const char **reason);

bool mb_base3_plan(const mb_blob_header *, const uint8_t *, mb_storage_plan *, const char **);
bool mb_base3_decode(const mb_blob_header *, const uint8_t *, void *, mb_sink, void *, const char **);
bool mb_seedlm_plan(const mb_blob_header *, const uint8_t *, mb_storage_plan *, const char **);
bool mb_seedlm_decode(const mb_blob_header *, const uint8_t *, void *, mb_sink, void *, const char **);
bool mb_lattice_plan(const mb_blob_header *, const uint8_t *, mb_storage_plan *, const char **);
bool mb_lattice_decode(const mb_blob_header *, const uint8_t *, void *, mb_sink, void *, const char **);
bool mb_entropy_plan(const mb_blob_header *, const uint8_t *, mb_storage_plan *, const char **);
bool mb_entropy_decode(const mb_blob_header *, const uint8_t *, void *, mb_sink, void *, const char **);

#endif

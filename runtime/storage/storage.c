#include "storage/storage.h"

#include <math.h>
#include <string.h>

#include "packed/formats.h"
#include "storage/decoders.h"

typedef struct {
  uint16_t format;
  mb_storage_planner plan;
  mb_storage_decoder decode;
} stored_form;

static const stored_form forms[] = {
    {MB_FORMAT_BASE3, mb_base3_plan, mb_base3_decode},
    {MB_FORMAT_SEEDLM, mb_seedlm_plan, mb_seedlm_decode},
    {MB_FORMAT_LATTICE, mb_lattice_plan, mb_lattice_decode},
    {MB_FORMAT_ENTROPY, mb_entropy_plan, mb_entropy_decode},
};

static const stored_form *check(const void *blob, uint64_t available, mb_blob_header *h, const char **reason) {
  if (available < sizeof *h) {
    *reason = "stored blob is shorter than its header";
    return NULL;
  }
  memcpy(h, blob, sizeof *h);
  uint8_t reserved = 0;
  for (size_t i = 0; i < sizeof h->reserved1; i++) reserved |= h->reserved1[i];
  if (memcmp(h->magic, MB_BLOB_MAGIC, 4) != 0 || h->version != MB_BLOB_VERSION || h->reserved0 != 0 || reserved != 0 ||
      !isfinite(h->scale)) {
    *reason = "header of the stored blob is damaged";
    return NULL;
  }
  if (h->payload_bytes != available - sizeof *h ||
      (h->format != MB_FORMAT_ENTROPY &&
       h->payload_bytes != mb_payload_bytes(h->format, h->rows, h->columns, h->group, h->flags))) {
    *reason = "payload size of the stored blob does not match its shape";
    return NULL;
  }
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
    if (forms[i].format == h->format) return &forms[i];
  *reason = "blob is not a stored form";
  return NULL;
}

bool mb_storage_plan_of(const void *blob, uint64_t available, mb_storage_plan *plan, const char **reason) {
  mb_blob_header header;
  memset(plan, 0, sizeof *plan);
  const stored_form *form = check(blob, available, &header, reason);
  return form && form->plan(&header, (const uint8_t *)blob + sizeof header, plan, reason);
}

bool mb_storage_decode(const void *blob, uint64_t available, void *scratch, mb_sink sink, void *context,
                       const char **reason) {
  mb_blob_header header;
  *reason = NULL;
  const stored_form *form = check(blob, available, &header, reason);
  return form && form->decode(&header, (const uint8_t *)blob + sizeof header, scratch, sink, context, reason);
}

#include "decoders.h"

bool mb_base3_plan(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan, const char **reason) {
  (void)header, (void)payload, (void)plan;
  *reason = "not yet";
  return false;
}

bool mb_base3_decode(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink, void *context,
                     const char **reason) {
  (void)header, (void)payload, (void)scratch, (void)sink, (void)context;
  *reason = "not yet";
  return false;
}

#include "storage/entropy.h"

#include <math.h>
#include <string.h>

#include "packed/formats.h"
#include "storage/decoders.h"

/* Copies and checks the inner header; NULL, or what is wrong. */
static const char *check(const mb_blob_header *outer, const uint8_t *payload, mb_blob_header *inner) {
  if (outer->payload_bytes < MB_ENTROPY_HEAD) return "entropy-coded blob is cut off";
  if (outer->group != 0 || outer->flags != 0) return "group or flags of the entropy-coded blob are not 0";
  memcpy(inner, payload, sizeof *inner);
  uint8_t reserved = 0;
  for (size_t i = 0; i < sizeof inner->reserved1; i++) reserved |= inner->reserved1[i];
  if (memcmp(inner->magic, MB_BLOB_MAGIC, 4) != 0 || inner->version != MB_BLOB_VERSION || inner->reserved0 != 0 ||
      reserved != 0 || !isfinite(inner->scale))
    return "header inside of the entropy-coded blob is damaged";
  if (inner->format >= MB_FIRST_STORED_FORMAT) return "entropy-coded blob holds another stored form";
  if (mb_is_withdrawn(inner->format)) return "entropy-coded blob is of an earlier version: build the bundle again";
  const uint64_t bytes = mb_payload_bytes(inner->format, inner->rows, inner->columns, inner->group, inner->flags);
  if (bytes == 0 || inner->payload_bytes != bytes || inner->rows != outer->rows || inner->columns != outer->columns)
    return "shape inside of the entropy-coded blob is not possible";
  const uint8_t *head = payload + sizeof *inner;
  reserved = head[0] == MB_METHOD_LZMA ? 0 : head[1];
  for (size_t i = 2; i < MB_ENTROPY_HEAD - sizeof *inner; i++) reserved |= head[i];
  if (head[0] > MB_METHOD_LZMA || reserved != 0) return "unknown method of entropy coding; made by a newer version?";
  return NULL;
}

static size_t scratch_bytes(uint8_t method, const mb_blob_header *inner) {
  switch (method) {
    case MB_METHOD_RANS:
      return mb_rans_scratch_bytes(inner);
    case MB_METHOD_DEFLATE:
      return mb_inflate_scratch_bytes();
    case MB_METHOD_LZMA:
      return mb_lzma_scratch_bytes();
    default:
      return 0;
  }
}

bool mb_entropy_plan(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan, const char **reason) {
  mb_blob_header inner;
  const char *wrong = check(header, payload, &inner);
  if (wrong != NULL) {
    *reason = wrong;
    return false;
  }
  *plan = (mb_storage_plan){.target = inner,
                            .target_bytes = sizeof inner + inner.payload_bytes,
                            .scratch_bytes = scratch_bytes(payload[sizeof inner], &inner)};
  return true;
}

bool mb_entropy_decode_by(mb_rans_decoder rans, const mb_blob_header *header, const uint8_t *payload, void *scratch,
                          mb_sink sink, void *context, const char **reason) {
  mb_blob_header inner;
  const char *wrong = check(header, payload, &inner);
  if (wrong != NULL) {
    *reason = wrong;
    return false;
  }
  const mb_entropy_body body = {.inner = &inner,
                                .data = payload + MB_ENTROPY_HEAD,
                                .bytes = (size_t)(header->payload_bytes - MB_ENTROPY_HEAD),
                                .properties = payload[sizeof inner + 1]};
  const uint8_t method = payload[sizeof inner];
  if (method == MB_METHOD_STORED && body.bytes != inner.payload_bytes) {
    *reason = "entropy-coded blob has not the size of what is stored in it";
    return false;
  }
  if (!sink(context, &inner, sizeof inner)) return false;
  switch (method) {
    case MB_METHOD_RANS:
      return mb_rans_body(&body, rans, scratch, sink, context, reason);
    case MB_METHOD_DEFLATE:
      return mb_inflate_body(&body, scratch, sink, context, reason);
    case MB_METHOD_LZMA:
      return mb_lzma_body(&body, scratch, sink, context, reason);
    default:
      return sink(context, body.data, body.bytes);
  }
}

bool mb_entropy_decode(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink, void *context,
                       const char **reason) {
  return mb_entropy_decode_by(mb_rans_best_decoder(), header, payload, scratch, sink, context, reason);
}

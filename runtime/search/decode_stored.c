#include <stdlib.h>
#include <string.h>

#include "base/aligned.h"
#include "base/error.h"
#include "search/search.h"
#include "storage/storage.h"

typedef struct {
  uint8_t *out;
  uint64_t capacity, written;
} buffer;

static bool append(void *context, const void *data, size_t bytes) {
  buffer *b = context;
  if (bytes > b->capacity - b->written) return false;
  memcpy(b->out + b->written, data, bytes);
  b->written += bytes;
  return true;
}

mb_status mb_decode_stored(const void *blob, uint64_t bytes, void *out, uint64_t capacity, uint64_t *written) {
  mb_storage_plan plan;
  const char *reason = NULL;
  if (!mb_storage_plan_of(blob, bytes, &plan, &reason)) return mb_fail(MB_ERROR_FORMAT, "%s", reason);
  *written = plan.target_bytes;
  if (out == NULL) return MB_OK;
  if (capacity < plan.target_bytes) return mb_fail(MB_ERROR_ARGUMENT, "no room for the decoded blob");
  void *scratch = mb_aligned_malloc(plan.scratch_bytes);
  if (scratch == NULL) return mb_fail(MB_ERROR_MEMORY, "no memory to decode a stored blob");
  buffer b = {.out = out, .capacity = plan.target_bytes};
  const bool done = mb_storage_decode(blob, bytes, scratch, append, &b, &reason) && b.written == plan.target_bytes;
  free(scratch);
  if (!done) return mb_fail(MB_ERROR_FORMAT, "%s", reason ? reason : "a decoder gave a wrong number of bytes");
  return MB_OK;
}

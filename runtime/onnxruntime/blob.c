#include "onnxruntime/blob.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sizes.h"
#include "mobile_bundle/packed_formats.h"
#include "storage/storage.h"

enum { SCRATCH_ALIGNMENT = 64 };

typedef struct {
  uint8_t *next;
  uint64_t left;
} filling;

static bool fill(void *context, const void *data, size_t bytes) {
  filling *to = context;
  if (bytes > to->left) return false;
  memcpy(to->next, data, bytes);
  to->next += bytes;
  to->left -= bytes;
  return true;
}

static OrtStatus *reserve(const char *name, uint64_t bytes, onnx_blob *blob) {
  void *area = MAP_FAILED;
  if (mb_size_fits(bytes))
    area = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED)
    return mb_ort_fail(ORT_FAIL, "%s: no memory for a tensor of %llu bytes", name, (unsigned long long)bytes);
  *blob = (onnx_blob){area, bytes, area, (size_t)bytes};
  return NULL;
}

static OrtStatus *decode(const char *name, const void *bytes, uint64_t size, onnx_blob *blob) {
  mb_storage_plan plan;
  const char *reason = NULL;
  if (!mb_storage_plan_of(bytes, size, &plan, &reason))
    return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s: %s", name, reason);
  MB_ORT_TRY(reserve(name, plan.target_bytes, blob));
  void *scratch = NULL;
  const size_t scratch_bytes = plan.scratch_bytes ? plan.scratch_bytes : SCRATCH_ALIGNMENT;
  const bool room = posix_memalign(&scratch, SCRATCH_ALIGNMENT, scratch_bytes) == 0;
  filling to = {blob->area, plan.target_bytes};
  const bool whole = room && mb_storage_decode(bytes, size, scratch, fill, &to, &reason) && to.left == 0;
  free(scratch);
  if (!whole) {
    onnx_blob_close(blob);
    return room ? mb_ort_fail(ORT_INVALID_ARGUMENT, "%s: %s", name, reason ? reason : "its stored form is damaged")
                : mb_ort_fail(ORT_FAIL, "%s: no memory to decode it", name);
  }
  (void)mprotect(blob->area, blob->area_bytes, PROT_READ);
  return NULL;
}

OrtStatus *onnx_blob_open(const char *name, const void *bytes, uint64_t size, onnx_blob *blob) {
  mb_blob_header header;
  if (size < sizeof header)
    return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s: %llu bytes are no blob of mobile-bundle", name,
                       (unsigned long long)size);
  memcpy(&header, bytes, sizeof header);
  onnx_blob aligned = {.bytes = bytes, .size = size};
  if ((uintptr_t)bytes % 4 != 0) {
    MB_ORT_TRY(reserve(name, size, &aligned));
    memcpy(aligned.area, bytes, size);
  }
  if (header.format < MB_FIRST_STORED_FORMAT) {
    *blob = aligned;
    return NULL;
  }
  OrtStatus *status = decode(name, aligned.bytes, size, blob);
  onnx_blob_close(&aligned);
  return status;
}

void onnx_blob_close(onnx_blob *blob) {
  if (blob->area) munmap(blob->area, blob->area_bytes);
  *blob = (onnx_blob){0};
}

/* A blob that came as plain bytes (an initializer inside the .onnx, or in a file that is not a weights.ptd), as a
 * packed blob that kernels can compute with. */
#ifndef MB_ONNXRUNTIME_BLOB_H
#define MB_ONNXRUNTIME_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include "onnxruntime/status.h"

typedef struct {
  const void *bytes; /* aligned to 4 */
  uint64_t size;
  void *area; /* ours to unmap; NULL: `bytes` are the caller's */
  size_t area_bytes;
} onnx_blob;

/* Packed forms stay where they are, unless they are not aligned; stored forms are decoded into anonymous memory, which
 * is then read-only. The bytes are untrusted; `name` is for messages. On an error nothing stays open. */
OrtStatus *onnx_blob_open(const char *name, const void *bytes, uint64_t size, onnx_blob *blob);
void onnx_blob_close(onnx_blob *blob);

#endif

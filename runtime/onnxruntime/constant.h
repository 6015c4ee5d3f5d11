/* Inputs of a node that are initializers: blobs of weights.ptd and its index. */
#ifndef MB_ONNXRUNTIME_CONSTANT_H
#define MB_ONNXRUNTIME_CONSTANT_H

#include <stddef.h>
#include <stdint.h>

#include "onnxruntime/status.h"

enum { CONSTANT_NAME_BYTES = 128 };

typedef struct {
  const void *bytes;
  uint64_t size;
  char name[CONSTANT_NAME_BYTES]; /* of the initializer, for messages */
} onnx_constant;

/* The uint8 tensor that is input number `index` of a node. */
OrtStatus *onnx_constant_read(const OrtKernelInfo *info, size_t index, onnx_constant *input);

#endif

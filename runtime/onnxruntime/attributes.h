/* Attributes of a node. */
#ifndef MB_ONNXRUNTIME_ATTRIBUTES_H
#define MB_ONNXRUNTIME_ATTRIBUTES_H

#include <stddef.h>
#include <stdint.h>

#include "onnxruntime/status.h"

/* A list of 1 to `most` ints. */
OrtStatus *onnx_ints(const OrtKernelInfo *info, const char *name, int64_t *values, size_t most, size_t *count);
/* An int, `absent` where the node has none of that name. */
int64_t onnx_int(const OrtKernelInfo *info, const char *name, int64_t absent);

#endif

/* Shapes of tensors, at run time and while shapes are inferred. */
#ifndef MB_ONNXRUNTIME_TENSOR_H
#define MB_ONNXRUNTIME_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "onnxruntime/status.h"

enum { MOST_DIMENSIONS = 8, MOST_OUTPUTS = 3 };

typedef struct {
  int64_t dimensions[MOST_DIMENSIONS];
  size_t rank;
  size_t elements;
  const void *data;
} onnx_tensor;

OrtStatus *onnx_input(const OrtKernelContext *context, size_t index, onnx_tensor *tensor);

/* Shape inference: every output i is a float tensor of the first input's dimensions and then number i of the attribute
 * of that name (ints), which takes the place of the input's last dimension if `replace_last`. */
OrtStatus *onnx_infer_shapes(OrtShapeInferContext *context, const char *attribute, bool replace_last);

#endif

#include "onnxruntime/tensor.h"

#include <string.h>

OrtStatus *onnx_input(const OrtKernelContext *context, size_t index, onnx_tensor *tensor) {
  const OrtValue *value;
  OrtTensorTypeAndShapeInfo *shape;
  MB_ORT_TRY(mb_ort->KernelContext_GetInput(context, index, &value));
  MB_ORT_TRY(mb_ort->GetTensorTypeAndShape(value, &shape));
  OrtStatus *status = mb_ort->GetDimensionsCount(shape, &tensor->rank);
  if (!status && tensor->rank > MOST_DIMENSIONS)
    status =
        mb_ort_fail(ORT_INVALID_ARGUMENT, "an input has %zu dimensions: %d at most", tensor->rank, MOST_DIMENSIONS);
  if (!status) status = mb_ort->GetDimensions(shape, tensor->dimensions, tensor->rank);
  if (!status) status = mb_ort->GetTensorShapeElementCount(shape, &tensor->elements);
  mb_ort->ReleaseTensorTypeAndShapeInfo(shape);
  void *data = NULL; /* read only; the one accessor of the C API gives a mutable pointer */
  if (!status) status = mb_ort->GetTensorMutableData((OrtValue *)(uintptr_t)value, &data);
  tensor->data = data;
  return status;
}

/* Makes output `index` a float tensor. */
static OrtStatus *infer_one(OrtShapeInferContext *context, size_t index, const int64_t *dimensions,
                            const char **symbols, size_t rank) {
  OrtTensorTypeAndShapeInfo *shape;
  MB_ORT_TRY(mb_ort->CreateTensorTypeAndShapeInfo(&shape));
  OrtStatus *status = mb_ort->SetTensorElementType(shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  if (!status) status = mb_ort->SetDimensions(shape, dimensions, rank);
  if (!status) status = mb_ort->SetSymbolicDimensions(shape, symbols, rank);
  if (!status) status = mb_ort->ShapeInferContext_SetOutputTypeShape(context, index, shape);
  mb_ort->ReleaseTensorTypeAndShapeInfo(shape);
  return status;
}

OrtStatus *onnx_infer_shapes(OrtShapeInferContext *context, const char *attribute, bool replace_last) {
  OrtTensorTypeAndShapeInfo *input;
  MB_ORT_TRY(mb_ort->ShapeInferContext_GetInputTypeShape(context, 0, &input));
  int64_t dimensions[MOST_DIMENSIONS + 1];
  const char *symbols[MOST_DIMENSIONS + 1] = {NULL};
  size_t rank = 0, bytes = 0;
  MB_ORT_TRY(mb_ort->GetDimensionsCount(input, &rank));
  if (rank == 0 || rank > MOST_DIMENSIONS) return NULL; /* not known here; the kernel looks again */
  MB_ORT_TRY(mb_ort->GetDimensions(input, dimensions, rank));
  MB_ORT_TRY(mb_ort->GetSymbolicDimensions(input, symbols, rank));
  const OrtOpAttr *value;
  int64_t last[MOST_OUTPUTS];
  MB_ORT_TRY(mb_ort->ShapeInferContext_GetAttribute(context, attribute, &value));
  MB_ORT_TRY(mb_ort->ReadOpAttr(value, ORT_OP_ATTR_INTS, last, sizeof last, &bytes));
  if (!replace_last) rank++;
  symbols[rank - 1] = "";
  for (size_t i = 0; i < bytes / sizeof last[0]; i++) {
    dimensions[rank - 1] = last[i];
    MB_ORT_TRY(infer_one(context, i, dimensions, symbols, rank));
  }
  return NULL;
}

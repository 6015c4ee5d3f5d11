#include "onnxruntime/constant.h"

#include <string.h>

OrtStatus *onnx_constant_read(const OrtKernelInfo *info, size_t index, onnx_constant *input) {
  size_t inputs = 0, length = sizeof input->name;
  MB_ORT_TRY(mb_ort->KernelInfo_GetInputCount(info, &inputs));
  if (index >= inputs)
    return mb_ort_fail(ORT_INVALID_GRAPH, "the node has %zu inputs; a weight or its codebook is missing", inputs);
  OrtStatus *too_long = mb_ort->KernelInfo_GetInputName(info, index, input->name, &length);
  if (too_long) {
    mb_ort->ReleaseStatus(too_long);
    memcpy(input->name, "a weight", sizeof "a weight");
  }
  int constant = 0;
  const OrtValue *value = NULL;
  MB_ORT_TRY(mb_ort->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
  if (!constant || !value)
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: weights must be initializers, not results of other nodes", input->name);
  OrtTensorTypeAndShapeInfo *shape;
  MB_ORT_TRY(mb_ort->GetTensorTypeAndShape(value, &shape));
  size_t count = 0;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  OrtStatus *status = mb_ort->GetTensorShapeElementCount(shape, &count);
  if (!status) status = mb_ort->GetTensorElementType(shape, &type);
  mb_ort->ReleaseTensorTypeAndShapeInfo(shape);
  if (status) return status;
  if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: a weight is a uint8 tensor that holds a blob", input->name);
  void *data; /* GetTensorMutableData is the one accessor that all versions have; nothing is written */
  MB_ORT_TRY(mb_ort->GetTensorMutableData((OrtValue *)(uintptr_t)value, &data));
  input->bytes = data;
  input->size = count;
  return NULL;
}

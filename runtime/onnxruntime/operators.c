#include "onnxruntime/operators.h"

const char *ORT_API_CALL mb_operator_provider(const OrtCustomOp *op) {
  (void)op;
  return NULL; /* the processor */
}

size_t ORT_API_CALL mb_operator_inputs(const OrtCustomOp *op) {
  (void)op;
  return 2;
}

OrtCustomOpInputOutputCharacteristic ORT_API_CALL mb_operator_input_kind(const OrtCustomOp *op, size_t index) {
  (void)op;
  return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_VARIADIC;
}

size_t ORT_API_CALL mb_operator_outputs(const OrtCustomOp *op) {
  (void)op;
  return 1;
}

OrtCustomOpInputOutputCharacteristic ORT_API_CALL mb_operator_output_kind(const OrtCustomOp *op, size_t index) {
  (void)op;
  (void)index;
  return INPUT_OUTPUT_VARIADIC;
}

ONNXTensorElementDataType ORT_API_CALL mb_operator_output_type(const OrtCustomOp *op, size_t index) {
  (void)op;
  (void)index;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

OrtMemType ORT_API_CALL mb_operator_memory(const OrtCustomOp *op, size_t index) {
  (void)op;
  (void)index;
  return OrtMemTypeDefault;
}

int ORT_API_CALL mb_operator_one(const OrtCustomOp *op) {
  (void)op;
  return 1;
}

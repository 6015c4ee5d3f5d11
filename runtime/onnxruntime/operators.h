/* The operators of domain `mobile_bundle`, version 1. */
#ifndef MB_ONNXRUNTIME_OPERATORS_H
#define MB_ONNXRUNTIME_OPERATORS_H

#include "onnxruntime/status.h"

/* CompressedMatMul(x, weights...) -> y...
 *   x: float [..., columns]; weights: 1 to 3 blobs, uint8, each with its codebook behind it if it shares one;
 *   y[i]: float [..., rows[i]] = x times the transposed weight i.
 *   rows: ints, the weights' rows. round_input: int, 1: weights that are not packed see x rounded to int8, too
 * (BitNet).
 */
extern const OrtCustomOp mb_compressed_matmul;

/* CompressedGather(ids, weight) -> y
 *   ids: int64 [...]; weight: a blob, uint8; y: float [..., columns], the weight's rows of these numbers.
 *   columns: ints, one: the weight's columns. */
extern const OrtCustomOp mb_compressed_gather;

/* What the two have in common: they run on the processor, take one input and then constant weights, and give floats. */
const char *ORT_API_CALL mb_operator_provider(const OrtCustomOp *op);
size_t ORT_API_CALL mb_operator_inputs(const OrtCustomOp *op);
OrtCustomOpInputOutputCharacteristic ORT_API_CALL mb_operator_input_kind(const OrtCustomOp *op, size_t index);
size_t ORT_API_CALL mb_operator_outputs(const OrtCustomOp *op);
OrtCustomOpInputOutputCharacteristic ORT_API_CALL mb_operator_output_kind(const OrtCustomOp *op, size_t index);
ONNXTensorElementDataType ORT_API_CALL mb_operator_output_type(const OrtCustomOp *op, size_t index);
OrtMemType ORT_API_CALL mb_operator_memory(const OrtCustomOp *op, size_t index);
int ORT_API_CALL mb_operator_one(const OrtCustomOp *op);

#define MB_OPERATOR_COMMON                                                                       \
  .version = ORT_API_VERSION, .GetExecutionProviderType = mb_operator_provider,                  \
  .GetInputTypeCount = mb_operator_inputs, .GetInputCharacteristic = mb_operator_input_kind,     \
  .GetInputMemoryType = mb_operator_memory, .GetOutputTypeCount = mb_operator_outputs,           \
  .GetOutputType = mb_operator_output_type, .GetOutputCharacteristic = mb_operator_output_kind,  \
  .GetVariadicInputMinArity = mb_operator_one, .GetVariadicInputHomogeneity = mb_operator_one,   \
  .GetVariadicOutputMinArity = mb_operator_one, .GetVariadicOutputHomogeneity = mb_operator_one, \
  .GetStartVersion = mb_operator_one, .GetEndVersion = mb_operator_one

#endif

/* CompressedGather: rows of a compressed embedding. */
#include <stdlib.h>

#include "onnxruntime/attributes.h"
#include "onnxruntime/operators.h"
#include "onnxruntime/tensor.h"
#include "onnxruntime/weight.h"

typedef struct {
  onnx_weight weight;
} gather;

static void ORT_API_CALL destroy(void *op) {
  gather *kernel = op;
  onnx_weight_close(&kernel->weight);
  free(kernel);
}

static OrtStatus *open_weight(const OrtKernelInfo *info, gather *kernel) {
  int64_t columns;
  size_t count, input = 1;
  MB_ORT_TRY(onnx_ints(info, "columns", &columns, 1, &count));
  MB_ORT_TRY(onnx_weight_open(info, &input, &kernel->weight));
  const mb_matrix *w = &kernel->weight.matrix;
  return w->columns == columns
             ? NULL
             : mb_ort_fail(ORT_INVALID_GRAPH, "the weight has %u columns, attribute columns says %lld", w->columns,
                           (long long)columns);
}

static OrtStatusPtr ORT_API_CALL create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                        void **out) {
  (void)op;
  (void)api;
  gather *kernel = calloc(1, sizeof *kernel);
  if (!kernel) return mb_ort_fail(ORT_FAIL, "no memory for a kernel");
  OrtStatus *status = open_weight(info, kernel);
  if (status) {
    destroy(kernel);
    return status;
  }
  *out = kernel;
  return NULL;
}

static OrtStatusPtr ORT_API_CALL compute(void *op, OrtKernelContext *context) {
  const mb_matrix *w = &((const gather *)op)->weight.matrix;
  onnx_tensor ids;
  OrtValue *value;
  void *data;
  MB_ORT_TRY(onnx_input(context, 0, &ids));
  if (ids.rank == MOST_DIMENSIONS)
    return mb_ort_fail(ORT_INVALID_ARGUMENT, "ids have %zu dimensions: %d at most", ids.rank, MOST_DIMENSIONS - 1);
  ids.dimensions[ids.rank] = w->columns;
  MB_ORT_TRY(mb_ort->KernelContext_GetOutput(context, 0, ids.dimensions, ids.rank + 1, &value));
  MB_ORT_TRY(mb_ort->GetTensorMutableData(value, &data));
  const int64_t *id = ids.data;
  for (size_t i = 0; i < ids.elements; i++) {
    if (id[i] < 0 || id[i] >= w->rows)
      return mb_ort_fail(ORT_INVALID_ARGUMENT, "token %lld is not in the vocabulary of %u", (long long)id[i], w->rows);
    mb_decode_row(w, (uint32_t)id[i], (float *)data + i * w->columns);
  }
  return NULL;
}

static OrtStatusPtr ORT_API_CALL infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
  (void)op;
  return onnx_infer_shapes(context, "columns", false);
}

static const char *ORT_API_CALL name(const OrtCustomOp *op) {
  (void)op;
  return "CompressedGather";
}

static ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp *op, size_t index) {
  (void)op;
  return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

const OrtCustomOp mb_compressed_gather = {
    MB_OPERATOR_COMMON,         .GetName = name,          .GetInputType = input_type,  .CreateKernelV2 = create,
    .KernelComputeV2 = compute, .KernelDestroy = destroy, .InferOutputShapeFn = infer,
};

/* CompressedMatMul: mb_products behind ONNX Runtime's interface. */
#include <stdlib.h>
#include <string.h>

#include "base/sizes.h"
#include "kernels/products.h"
#include "onnxruntime/attributes.h"
#include "onnxruntime/operators.h"
#include "onnxruntime/tensor.h"
#include "onnxruntime/threads.h"
#include "onnxruntime/weight.h"

enum {
  CHUNK = 32, /* vectors computed together, as in the engine: their codes stay in the caches */
  ALIGNMENT = 64,
};

typedef struct {
  const mb_kernels *kernels;
  OrtAllocator *allocator;
  uint32_t columns, count;
  bool round_input; /* some weight reads the floats of x, and must see them rounded */
  onnx_weight weights[MB_MOST_PRODUCTS];
} matmul;

static void ORT_API_CALL destroy(void *op) {
  matmul *kernel = op;
  for (uint32_t i = 0; i < kernel->count; i++) onnx_weight_close(&kernel->weights[i]);
  if (kernel->allocator) mb_ort->ReleaseAllocator(kernel->allocator);
  free(kernel);
}

static OrtStatus *open_weights(const OrtKernelInfo *info, matmul *kernel) {
  int64_t rows[MB_MOST_PRODUCTS];
  size_t count = 0, input = 1, inputs = 0;
  MB_ORT_TRY(onnx_ints(info, "rows", rows, MB_MOST_PRODUCTS, &count));
  const bool round_input = onnx_int(info, "round_input", 0) != 0;
  for (size_t i = 0; i < count; i++) {
    const mb_matrix *w = &kernel->weights[i].matrix;
    MB_ORT_TRY(onnx_weight_open(info, &input, &kernel->weights[i]));
    kernel->count++;
    if (w->rows != rows[i])
      return mb_ort_fail(ORT_INVALID_GRAPH, "weight %zu has %u rows, attribute rows says %lld", i, w->rows,
                         (long long)rows[i]);
    if (w->columns != kernel->weights[0].matrix.columns)
      return mb_ort_fail(ORT_INVALID_GRAPH, "weight %zu has %u columns, the first has %u: they must share an input", i,
                         w->columns, kernel->weights[0].matrix.columns);
    kernel->round_input |= round_input && (w->format == MB_FORMAT_BF16 || w->format == MB_FORMAT_F32);
  }
  kernel->columns = kernel->weights[0].matrix.columns;
  MB_ORT_TRY(mb_ort->KernelInfo_GetInputCount(info, &inputs));
  return inputs == input ? NULL
                         : mb_ort_fail(ORT_INVALID_GRAPH, "%zu inputs, attribute rows asks for %zu", inputs, input);
}

static OrtStatusPtr ORT_API_CALL create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                        void **out) {
  (void)op;
  (void)api;
  matmul *kernel = calloc(1, sizeof *kernel);
  if (!kernel) return mb_ort_fail(ORT_FAIL, "no memory for a kernel");
  kernel->kernels = mb_kernels_select(NULL);
  OrtStatus *status = open_weights(info, kernel);
  if (!status) status = mb_ort->KernelInfoGetAllocator(info, OrtMemTypeDefault, &kernel->allocator);
  if (status) {
    destroy(kernel);
    return status;
  }
  *out = kernel;
  return NULL;
}

/* Vectors [count][columns] with their padding, and for the kernels to write to. */
static void copy_padded(const float *x, uint32_t count, uint32_t columns, uint32_t padded, float *out) {
  for (uint32_t n = 0; n < count; n++) {
    memcpy(out + (size_t)n * padded, x + (size_t)n * columns, columns * sizeof *x);
    memset(out + (size_t)n * padded + columns, 0, (padded - columns) * sizeof *x);
  }
}

static void multiply(const matmul *kernel, OrtKernelContext *context, const float *x, size_t vectors, uint8_t *area,
                     float *const *y) {
  const uint32_t columns = kernel->columns, padded = mb_round_up(columns, MB_COLUMN_PADDING);
  const uint32_t chunk = vectors < CHUNK ? (uint32_t)vectors : CHUNK;
  const mb_parallel parallel = onnx_parallel(context);
  const mb_product_scratch scratch = mb_product_scratch_place(area, columns, chunk);
  const bool copies = kernel->round_input || padded != columns;
  float *copy = (float *)(void *)(area + (size_t)mb_product_scratch_bytes(columns, chunk));
  for (size_t first = 0; first < vectors; first += chunk) {
    const uint32_t count = vectors - first < chunk ? (uint32_t)(vectors - first) : chunk;
    const float *in = x + first * columns;
    if (copies) copy_padded(in, count, columns, padded, copy);
    mb_product products[MB_MOST_PRODUCTS];
    for (uint32_t i = 0; i < kernel->count; i++) {
      const mb_matrix *w = &kernel->weights[i].matrix;
      products[i] = (mb_product){.weight = w, .out = y[i] + first * w->rows, .stride = w->rows};
    }
    /* Without round_input the values are only read. */
    mb_products(kernel->kernels, &parallel, &scratch, copies ? copy : (float *)(uintptr_t)in, count,
                kernel->round_input, products, kernel->count);
  }
}

static OrtStatusPtr ORT_API_CALL compute(void *op, OrtKernelContext *context) {
  const matmul *kernel = op;
  onnx_tensor x;
  MB_ORT_TRY(onnx_input(context, 0, &x));
  if (x.rank == 0 || x.dimensions[x.rank - 1] != kernel->columns)
    return mb_ort_fail(ORT_INVALID_ARGUMENT, "the last dimension of x is %lld, the weights have %u columns",
                       x.rank ? (long long)x.dimensions[x.rank - 1] : 0, kernel->columns);
  float *y[MB_MOST_PRODUCTS];
  for (uint32_t i = 0; i < kernel->count; i++) {
    OrtValue *value;
    void *data;
    x.dimensions[x.rank - 1] = kernel->weights[i].matrix.rows;
    MB_ORT_TRY(mb_ort->KernelContext_GetOutput(context, i, x.dimensions, x.rank, &value));
    MB_ORT_TRY(mb_ort->GetTensorMutableData(value, &data));
    y[i] = data;
  }
  const size_t vectors = x.elements / kernel->columns, chunk = vectors < CHUNK ? vectors : CHUNK;
  if (vectors == 0) return NULL;
  /* From ONNX Runtime's arena, which keeps what it was given back: no call to the system, and room for any number of
   * runs at once. */
  const uint64_t padded = mb_round_up(kernel->columns, MB_COLUMN_PADDING);
  const uint64_t bytes =
      mb_size_add(mb_product_scratch_bytes(kernel->columns, (uint32_t)chunk),
                  mb_size_add(mb_size_multiply(chunk, mb_size_multiply(padded, sizeof(float))), ALIGNMENT));
  void *memory = mb_size_fits(bytes) ? kernel->allocator->Alloc(kernel->allocator, (size_t)bytes) : NULL;
  if (!memory) return mb_ort_fail(ORT_FAIL, "no memory for %llu bytes of scratch", (unsigned long long)bytes);
  uint8_t *area = (uint8_t *)memory + (ALIGNMENT - (uintptr_t)memory % ALIGNMENT) % ALIGNMENT;
  multiply(kernel, context, x.data, vectors, area, y);
  kernel->allocator->Free(kernel->allocator, memory);
  return NULL;
}

static OrtStatusPtr ORT_API_CALL infer(const OrtCustomOp *op, OrtShapeInferContext *context) {
  (void)op;
  return onnx_infer_shapes(context, "rows", true);
}

static const char *ORT_API_CALL name(const OrtCustomOp *op) {
  (void)op;
  return "CompressedMatMul";
}

static ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp *op, size_t index) {
  (void)op;
  return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

const OrtCustomOp mb_compressed_matmul = {
    MB_OPERATOR_COMMON,         .GetName = name,          .GetInputType = input_type,  .CreateKernelV2 = create,
    .KernelComputeV2 = compute, .KernelDestroy = destroy, .InferOutputShapeFn = infer,
};

/* The weights of a node: constant uint8 inputs that are blobs of weights.ptd, header and payload. */
#ifndef MB_ONNXRUNTIME_WEIGHT_H
#define MB_ONNXRUNTIME_WEIGHT_H

#include "mobile_bundle/mobile_bundle.h"
#include "onnxruntime/blob.h"
#include "packed/formats.h"

typedef struct {
  mb_matrix matrix;
  const mb_model *model; /* whose mapping the matrix is in; NULL: the two below are it */
  onnx_blob blob, codebook;
} onnx_weight;

/* The weight that is input number *input of a node, and moves *input behind it: a vector blob with shared codebooks is
 * followed by their blob. On an error nothing stays open. */
OrtStatus *onnx_weight_open(const OrtKernelInfo *info, size_t *input, onnx_weight *weight);
void onnx_weight_close(onnx_weight *weight);

#endif

/* One packed weight at a time, for programs that bring their own model: a linear layer and an embedding.
 * What Python's eager operators call; the operators of libmobile_bundle_executorch.so give the same bits.
 *
 * A blob is a tensor of weights.ptd as packed_formats.h describes it, header and payload, aligned to 4 bytes. It is
 * checked by every call; the work is done in the caller's thread. */
#ifndef MOBILE_BUNDLE_LINEAR_H
#define MOBILE_BUNDLE_LINEAR_H

#include "mobile_bundle/mobile_bundle.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[n][r] = sum over columns of W[r][c] * x[n][c], x rounded to int8 as the engine does (but for bf16 and f32 weights).
 * blob: exactly `bytes` bytes; x: [count][columns]; y: [count][rows], which must not overlap x.
 * MB_ERROR_FORMAT: the blob is not valid; MB_ERROR_ARGUMENT: it is not of rows x columns; MB_ERROR_MEMORY: no memory
 * for the rounded input (freed before the call returns). */
MB_API mb_status mb_linear(const void *blob, uint64_t bytes, const float *x, size_t count, uint32_t columns, float *y,
                           uint32_t rows);

/* out[n] = row indices[n] of W as float32[columns]. MB_ERROR_ARGUMENT: also for an index out of range. */
MB_API mb_status mb_embedding(const void *blob, uint64_t bytes, const int64_t *indices, size_t count, float *out,
                              uint32_t columns);

#ifdef __cplusplus
}
#endif

#endif

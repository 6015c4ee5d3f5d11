/* One packed matrix as an operator of another runtime sees it: bytes, vectors of float32 in, vectors of float32 out.
 * What ExecuTorch's operators and mobile_bundle/linear.h share. */
#ifndef MB_KERNELS_PACKED_LINEAR_H
#define MB_KERNELS_PACKED_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/products.h"

/* A view of the blob that is exactly `bytes` bytes. false and a static reason: it is not valid, or a product needs more
 * than it (a stored form, a codebook, a vector blob whose codebook is another tensor). */
bool mb_packed_view(const void *blob, uint64_t bytes, mb_matrix *out, const char **reason);

/* Bytes of scratch, aligned to 64, that so many vectors need; grows with `count` up to 32 of them. It may be more than
 * a 32-bit process can hold (mb_size_fits). */
uint64_t mb_packed_linear_scratch(const mb_matrix *w, size_t count);

/* y[n][r] = W x[n] (+ bias[r]); x: [count][w->columns], bias: [w->rows] or NULL, y: [count][w->rows], none of them
 * overlapping. Vectors are multiplied 32 at a time; a vector's result does not depend on the others. */
void mb_packed_linear(const mb_kernels *kernels, const mb_parallel *parallel, const mb_matrix *w, const float *x,
                      size_t count, const float *bias, float *y, void *scratch);

#ifdef __cplusplus
}
#endif

#endif

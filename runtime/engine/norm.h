/* Root-mean-square norms, and the other steps over the floats of one token. */
#ifndef MB_ENGINE_NORM_H
#define MB_ENGINE_NORM_H

#include "kernels/kernels.h"

/* out = x / sqrt(mean of squares + epsilon) * weight, out may be x. Where the squares overflow, the result is NaN:
 * divided by infinity it would be zeros, of which nobody would know. weight NULL: there is no norm, out = x. */
void mb_normalise(const mb_kernels *kernels, const float *x, const float *weight, uint32_t n, float epsilon,
                  float *out);
/* The same for each of `heads` vectors of n that follow each other, in place. */
void mb_normalise_heads(const mb_kernels *kernels, float *x, const float *weight, uint32_t heads, uint32_t n,
                        float epsilon);
/* x = cap * tanh(x / cap) for each of n values: Gemma 2. */
void mb_soft_cap(float *x, uint32_t n, float cap);

#endif

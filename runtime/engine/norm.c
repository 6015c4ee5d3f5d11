#include "engine/norm.h"

#include <math.h>
#include <string.h>

void mb_normalise(const mb_kernels *kernels, const float *x, const float *weight, uint32_t n, float epsilon,
                  float *out) {
  if (!weight) {
    memcpy(out, x, n * sizeof *x);
    return;
  }
  const float mean = kernels->sum_squares(x, n) / (float)n + epsilon;
  const float scale = isfinite(mean) ? 1.0f / sqrtf(mean) : NAN;
  for (uint32_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

void mb_normalise_heads(const mb_kernels *kernels, float *x, const float *weight, uint32_t heads, uint32_t n,
                        float epsilon) {
  for (uint32_t h = 0; h < heads; h++) mb_normalise(kernels, x + (size_t)h * n, weight, n, epsilon, x + (size_t)h * n);
}

#include "engine/norm.h"

#include <math.h>
#include <string.h>

#include "kernels/exponential.h"

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

/* tanh(y) = (1 - e) / (1 + e) with e = exp(-2 |y|), and y's sign. */
void mb_soft_cap(float *x, uint32_t n, float cap) {
  for (uint32_t i = 0; i < n; i++) {
    const float e = mb_exp(-2.0f * fabsf(x[i] / cap));
    const float capped = cap * ((1.0f - e) / (1.0f + e));
    x[i] = isnan(x[i]) ? x[i] : copysignf(capped, x[i]);
  }
}

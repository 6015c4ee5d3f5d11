/* Error propagation through a run of neighbouring columns (in the order of rounding), each rounded to an affine grid:
 * the inner loop of codecs/propagation.py. Rows do not depend on each other: a few of them go through the whole run
 * while they lie in the first-level cache. Operations and their order are those of the NumPy code, so that the bits
 * are, too. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "search/search.h"

enum { TILE = 64, MOST_RUN = 64 };

#define INLINE static inline __attribute__((always_inline))

/* Column k of the run, of TILE rows. */
typedef float tile[MOST_RUN][TILE];

INLINE void round_column(const mb_affine_run *run, uint32_t column, size_t row, uint32_t count, const float *weights,
                         float *values) {
  const size_t grid = (size_t)run->grids[column] * run->rows + row;
  const float *steps = run->steps + grid, *offsets = run->offsets + grid, *inverse = run->inverse + grid;
  const float *lows = run->lows + row, *highs = run->highs + row;
  float *codes = run->codes + (size_t)column * run->rows + row;
  for (uint32_t i = 0; i < count; i++) {
    float code = rintf((weights[i] - offsets[i]) * inverse[i]);
    code = code > lows[i] ? code : lows[i];
    code = code < highs[i] ? code : highs[i];
    codes[i] = code;
    values[i] = code * steps[i] + offsets[i];
  }
}

INLINE void propagate_tile(const mb_affine_run *run, size_t row, uint32_t count) {
  tile weights;
  float values[TILE], errors[TILE];
  for (uint32_t k = 0; k < run->columns; k++)
    memcpy(weights[k], run->weights + (size_t)k * run->rows + row, count * sizeof(float));
  for (uint32_t k = 0; k < run->columns; k++) {
    const float *factor = run->matrix + (size_t)k * run->stride;
    round_column(run, k, row, count, weights[k], values);
    for (uint32_t i = 0; i < count; i++) errors[i] = (weights[k][i] - values[i]) / factor[k];
    for (uint32_t later = k + 1; later < run->columns; later++) {
      const float share = factor[later];
      float *to = weights[later];
      for (uint32_t i = 0; i < count; i++) to[i] = to[i] - share * errors[i];
    }
    memcpy(run->weights + (size_t)k * run->rows + row, values, count * sizeof(float));
    memcpy(run->changes + (size_t)k * run->rows + row, errors, count * sizeof(float));
  }
}

INLINE void refine_tile(const mb_affine_run *run, size_t row, uint32_t count) {
  tile slopes;
  float wanted[TILE], values[TILE], changes[TILE];
  for (uint32_t k = 0; k < run->columns; k++)
    memcpy(slopes[k], run->slopes + (size_t)k * run->rows + row, count * sizeof(float));
  for (uint32_t k = 0; k < run->columns; k++) {
    const float *hessian = run->matrix + (size_t)k * run->stride;
    float *own = run->weights + (size_t)k * run->rows + row;
    for (uint32_t i = 0; i < count; i++) wanted[i] = own[i] + slopes[k][i] / hessian[k];
    round_column(run, k, row, count, wanted, values);
    for (uint32_t i = 0; i < count; i++) changes[i] = values[i] - own[i];
    for (uint32_t other = 0; other < run->columns; other++) {
      const float share = run->matrix[(size_t)other * run->stride + k];
      float *to = slopes[other];
      for (uint32_t i = 0; i < count; i++) to[i] = to[i] - share * changes[i];
    }
    memcpy(own, values, count * sizeof(float));
    memcpy(run->changes + (size_t)k * run->rows + row, changes, count * sizeof(float));
  }
  for (uint32_t k = 0; k < run->columns; k++)
    memcpy(run->slopes + (size_t)k * run->rows + row, slopes[k], count * sizeof(float));
}

INLINE void round_run(const mb_affine_run *run) {
  for (size_t row = 0; row < run->rows; row += TILE) {
    const uint32_t count = run->rows - row < TILE ? (uint32_t)(run->rows - row) : TILE;
    if (run->slopes == NULL)
      propagate_tile(run, row, count);
    else
      refine_tile(run, row, count);
  }
}

static void round_portable(const mb_affine_run *run) { round_run(run); }

#if defined(__x86_64__) && !defined(MB_PORTABLE_SEARCH) /* a test builds what other processors run */
#define WIDE
__attribute__((target("avx2"))) static void round_avx2(const mb_affine_run *run) { round_run(run); }

#if !defined(MB_AVX2_SEARCH)
__attribute__((target("avx512f"))) static void round_avx512(const mb_affine_run *run) { round_run(run); }
#endif
#endif

mb_status mb_affine_round_run(const mb_affine_run *run) {
  if (run->columns < 1 || run->columns > MOST_RUN)
    return mb_fail(MB_ERROR_ARGUMENT, "no run of %u columns", run->columns);
  void (*round)(const mb_affine_run *) = round_portable;
#if defined(WIDE)
  if (__builtin_cpu_supports("avx2")) round = round_avx2;
#if !defined(MB_AVX2_SEARCH)
  if (__builtin_cpu_supports("avx512f")) round = round_avx512;
#endif
#endif
  round(run);
  return MB_OK;
}

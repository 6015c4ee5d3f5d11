#include "mobile_bundle/linear.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/aligned.h"
#include "base/error.h"
#include "base/sizes.h"
#include "kernels/packed_linear.h"

static void run_here(void *pool, mb_job job, void *context, uint32_t items, uint32_t grain) {
  (void)pool;
  (void)grain;
  job(context, 0, items, 0);
}

static mb_status view(const void *blob, uint64_t bytes, mb_matrix *w) {
  const char *reason;
  return mb_packed_view(blob, bytes, w, &reason) ? MB_OK : mb_fail(MB_ERROR_FORMAT, "%s", reason);
}

mb_status mb_linear(const void *blob, uint64_t bytes, const float *x, size_t count, uint32_t columns, float *y,
                    uint32_t rows) {
  mb_matrix w;
  mb_status status = view(blob, bytes, &w);
  if (status != MB_OK) return status;
  if (w.rows != rows || w.columns != columns)
    return mb_fail(MB_ERROR_ARGUMENT, "weight blob is %" PRIu32 " x %" PRIu32 ", not %" PRIu32 " x %" PRIu32, w.rows,
                   w.columns, rows, columns);
  if (count == 0) return MB_OK;
  const uint64_t bytes_needed = mb_packed_linear_scratch(&w, count);
  void *scratch = mb_size_fits(bytes_needed) ? mb_aligned_malloc((size_t)bytes_needed) : NULL;
  if (scratch == NULL) return mb_fail(MB_ERROR_MEMORY, "no memory for the input of a linear layer");
  const mb_parallel here = {.run = run_here, .threads = 1};
  mb_packed_linear(mb_kernels_select(NULL), &here, &w, x, count, NULL, y, scratch);
  free(scratch);
  return MB_OK;
}

mb_status mb_embedding(const void *blob, uint64_t bytes, const int64_t *indices, size_t count, float *out,
                       uint32_t columns) {
  mb_matrix w;
  mb_status status = view(blob, bytes, &w);
  if (status != MB_OK) return status;
  if (w.columns != columns)
    return mb_fail(MB_ERROR_ARGUMENT, "weight blob has %" PRIu32 " columns, not %" PRIu32, w.columns, columns);
  for (size_t n = 0; n < count; n++) {
    if (indices[n] < 0 || indices[n] >= w.rows)
      return mb_fail(MB_ERROR_ARGUMENT, "index %" PRId64 " is out of range: the weight has %" PRIu32 " rows",
                     indices[n], w.rows);
    mb_decode_row(&w, (uint32_t)indices[n], out + n * columns);
  }
  return MB_OK;
}

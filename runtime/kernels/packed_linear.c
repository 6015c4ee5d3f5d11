#include "kernels/packed_linear.h"

#include <string.h>

#include "base/sizes.h"

enum { CHUNK = 32 /* vectors that prefill kernels multiply a tile of weights by before they unpack the next */ };

bool mb_packed_view(const void *blob, uint64_t bytes, mb_matrix *out, const char **reason) {
  if (!mb_matrix_view(blob, bytes, out, reason)) return false;
  const uint64_t needed =
      sizeof(mb_blob_header) + mb_payload_bytes(out->format, out->rows, out->columns, out->group, out->flags);
  const char *wrong = NULL;
  if (bytes != needed) wrong = "weight blob has bytes behind its end";
  if (out->format == MB_FORMAT_INT8) wrong = "weight blob is a codebook, not a matrix";
  if (out->format == MB_FORMAT_VECTOR && out->vector.codebook == NULL)
    wrong = "codebook of the weight blob is another tensor";
  *reason = wrong;
  return wrong == NULL;
}

/* A multiple of 64. */
static uint64_t value_bytes(const mb_matrix *w, size_t chunk) {
  return mb_size_multiply(mb_size_round_up(w->columns, MB_COLUMN_PADDING), mb_size_multiply(chunk, sizeof(float)));
}

uint64_t mb_packed_linear_scratch(const mb_matrix *w, size_t count) {
  const size_t chunk = count < CHUNK ? count : CHUNK;
  return mb_size_add(value_bytes(w, chunk), mb_product_scratch_bytes(w->columns, (uint32_t)chunk));
}

void mb_packed_linear(const mb_kernels *kernels, const mb_parallel *parallel, const mb_matrix *w, const float *x,
                      size_t count, const float *bias, float *y, void *scratch) {
  const size_t columns = w->columns, padded = mb_round_up(w->columns, MB_COLUMN_PADDING);
  const size_t most = count < CHUNK ? count : CHUNK;
  float *values = scratch;
  for (size_t first = 0; first < count; first += CHUNK) {
    const uint32_t chunk = (uint32_t)(count - first < most ? count - first : most);
    const mb_product_scratch places =
        mb_product_scratch_place((uint8_t *)scratch + (size_t)value_bytes(w, most), w->columns, chunk);
    for (size_t n = 0; n < chunk; n++) {
      memcpy(values + n * padded, x + (first + n) * columns, columns * sizeof(float));
      memset(values + n * padded + columns, 0, (padded - columns) * sizeof(float));
    }
    float *out = y + first * w->rows;
    const mb_product product = {.weight = w, .out = out, .stride = w->rows};
    mb_products(kernels, parallel, &places, values, chunk, false, &product, 1);
    if (bias == NULL) continue;
    for (size_t n = 0; n < chunk; n++)
      for (size_t r = 0; r < w->rows; r++) out[n * w->rows + r] += bias[r];
  }
}

/* Products of matrices with one shared input: what the decoder, ONNX Runtime's operators and ExecuTorch's all call.
 * The input is quantised once per activation group, then rows of all matrices are handed to the threads in one job. */
#ifndef MB_KERNELS_PRODUCTS_H
#define MB_KERNELS_PRODUCTS_H

#include "base/parallel.h"
#include "kernels/kernels.h"

#define MB_MOST_PRODUCTS 3      /* query, key and value */
#define MB_PRODUCT_UNIT_ROWS 64 /* rows handed out together: one tile of the prefill kernels */

typedef struct {
  const mb_matrix *weight;
  float *out;               /* y[n][r] at out[n * stride + r] */
  size_t stride;            /* at least the weight's rows */
  uint32_t first_row, rows; /* rows first_row.. alone, first_row a multiple of MB_PRODUCT_UNIT_ROWS; rows 0: all */
} mb_product;

/* Room for the quantised input, mb_activations' parts; each aligned to 64 bytes. */
typedef struct {
  int8_t *codes;
  float *scales;
  int32_t *sums;
  int8_t *panel;
} mb_product_scratch;

/* Bytes that inputs of so many columns (up to 2^28) and vectors need, which may be more than a 32-bit process can hold
 * (mb_size_fits), and their places in an area of so many, aligned to 64. */
uint64_t mb_product_scratch_bytes(uint32_t columns, uint32_t count);
mb_product_scratch mb_product_scratch_place(void *area, uint32_t columns, uint32_t count);

/* out = W x for every product (at most MB_MOST_PRODUCTS, all of the same columns); values: [count][columns rounded up
 * to MB_COLUMN_PADDING], zero-padded. `round_values`: unpacked weights, too, see the input rounded to int8, in place
 * (packed ones always do): BitNet. */
void mb_products(const mb_kernels *kernels, const mb_parallel *parallel, const mb_product_scratch *scratch,
                 float *values, uint32_t count, bool round_values, const mb_product *products, uint32_t product_count);

#endif

/* What the toolchain asks of the shared library besides the engine: the encoders' searches, and decoding a stored blob
 * into memory. mobile-run does not carry it. */
#ifndef MB_SEARCH_SEARCH_H
#define MB_SEARCH_SEARCH_H

#include "mobile_bundle/mobile_bundle.h"

/* Decodes a stored blob of `bytes` bytes, as the installer does, into `out`, which has room for `capacity` bytes.
 * out NULL: gives the size alone. *written: bytes of the packed blob. */
MB_API mb_status mb_decode_stored(const void *blob, uint64_t bytes, void *out, uint64_t capacity, uint64_t *written);

/* index[n]: the entry c of a codebook that has the least half_norms[c] - sum over j of points[n][j] * centroids[c][j],
 * the first of equals. With half_norms[c] = |centroids[c]|^2 / 2 that is the nearest one. Same result for every number
 * of threads and every processor; the values should be finite (an index is valid in any case).
 * points [count][length], centroids [entries][length]; length 1..32, entries 1..MB_MOST_ENTRIES, threads at least 1. */
MB_API mb_status mb_vector_nearest(const float *points, size_t count, uint32_t length, const float *centroids,
                                   const float *half_norms, uint32_t entries, uint32_t threads, uint32_t *index);
#define MB_MOST_ENTRIES 65536

/* Trellis codes of rows of 16 weights, in the order of their places (packed/trellis_layout.h): of all ways round the
 * circle the one with the least loss. A code stands for steps[row] * level.
 * loss: sum over j of e[j]^2, e the solution of e * factor = weights - steps * levels; factor [16][16] is upper
 * triangular with a positive diagonal, and a column whose diagonal is infinite, and whose row and column are 0
 * otherwise, does not matter. Same result for every number of threads and every processor; the values should be finite
 * (the codes are valid in any case). halves: half bits of a weight, 4 to 6; weights [count][16], steps [count], threads
 * at least 1. codes [count][16]: the stored bits of each weight, its pair in bits 0-1. levels [count][16]: what they
 * stand for, -15..15.
 */
MB_API mb_status mb_trellis_search(uint32_t halves, const float *weights, const float *steps, size_t count,
                                   const float *factor, uint32_t threads, uint8_t *codes, int8_t *levels);

/* 1 if this processor has the units that mb_bf16_products takes (AVX512-BF16), else 0. */
MB_API uint32_t mb_bf16_products_supported(void);

/* Adds to sums[i][j] the sum over tokens t of a[t][i] * b[t][j], both factors rounded to bfloat16, summed in float32.
 * upper not 0: where j < i, sums may be left as they are. a [tokens][columns], b [tokens][others], sums
 * [columns][others]; columns and others 1..2**20. */
MB_API mb_status mb_bf16_products(const float *a, const float *b, size_t tokens, uint32_t columns, uint32_t others,
                                  uint32_t upper, float *sums);

/* A run of columns, rounded one after the other to the codes low..high of a grid, w = step * code + offset.
 * slopes NULL: each for the errors before it (propagate); matrix is the run's block of the upper triangular factor, and
 * changes become the errors divided by its diagonal. Otherwise each again, for the errors of all columns as they are
 * now (refine): matrix is the run's block of the Hessian; slopes [columns][rows], of which the run's own part is kept
 * up to date; changes become what was added to the weights. weights [columns][rows]: become what the codes stand for;
 * codes, changes [columns][rows]. matrix: row k begins at k * stride. grids [columns]: which row of steps, offsets and
 * inverse (1 / step, or 0), [any][rows], is of a column. lows, highs [rows]. columns 1..64. Same result on every
 * processor; the values should be finite. */
typedef struct {
  size_t rows;
  uint32_t columns;
  float *weights, *slopes, *codes, *changes;
  const float *matrix;
  size_t stride;
  const uint32_t *grids;
  const float *steps, *offsets, *inverse, *lows, *highs;
} mb_affine_run;
MB_API mb_status mb_affine_round_run(const mb_affine_run *run);

#endif

/* The kernel table: everything whose speed depends on the instruction set.
 *
 * Every implementation gives the same bits. Integer sums are exact, and every float operation happens in the order
 * written here, with separate multiply and add (compiled with -ffp-contract=off, no fused multiply-add), so the scalar
 * kernels are the definition and the others are equal to them, not close to them.
 *
 * Sizes: a vector's columns are padded with zeros to a multiple of MB_COLUMN_PADDING wherever int8 activations or
 * padded values are named, so a kernel may read whole registers.
 */
#ifndef MB_KERNELS_KERNELS_H
#define MB_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kv_layout.h"
#include "packed/formats.h"

#define MB_COLUMN_PADDING 128

/* `count` activation vectors, quantised once and shared by every matrix that takes the same input.
 * group 0: one scale per vector (ternary); 32/64/128: one per group of columns (affine with that group).
 * Quantisation of a group (the whole vector for group 0): a = max|v|; scale = a / 127;
 * q = round to nearest even(v * (127 / a)), and q = 0, scale = 0 where a < 2^-100. Where a value of the group is
 * infinite or NaN, q = 0 and scale = NaN, so that every product of the group is NaN: an overflow stays visible to
 * the end. Codes are therefore in [-127, 127]. */
typedef struct {
  uint32_t columns; /* logical */
  uint32_t padded;  /* multiple of MB_COLUMN_PADDING, >= columns */
  uint32_t group;
  uint32_t groups;     /* 1 for group 0, else padded / group */
  uint32_t count;      /* vectors */
  const float *values; /* [count][padded], zero-padded: what bf16 and f32 matrices read */
  int8_t *codes;       /* [count][padded] */
  float *scales;       /* [count][groups] */
  int32_t *sums;       /* [count][groups]: sum of the group's codes */
  int8_t *panel; /* count > 1: [padded / 4][count rounded up to 4][4], codes of four columns of every vector together,
                    zero for the vectors that round up; filled by `quantise`, read by `multiply` */
} mb_activations;

/* The keys or the values of one KV head in fp16, of neighbouring positions. stride: head_dim rounded up to MB_KV_BLOCK;
 * what fills a vector up is zero. */
typedef struct {
  const uint16_t *values; /* [positions][stride] */
  uint32_t stride, positions;
} mb_kv_head;

/* The same as integers, from a whole group of positions on and of whole groups: kv_layout.h. */
typedef struct {
  const uint8_t *codes;
  const uint16_t *scales; /* fp16; with 8 bits not negative */
  uint32_t blocks;        /* of MB_KV_BLOCK dimensions */
  uint32_t positions;     /* a multiple of MB_KV_GROUP */
} mb_kv_groups;

/* Queries that meet the same keys: query heads that share a KV head, of one token or of several. */
typedef struct {
  const int8_t *codes; /* not of an fp16 cache: [rows][stride], in [-127, 127], with */
  const float *scales; /* [rows][stride / MB_KV_BLOCK] and */
  const int32_t *sums; /* [rows][stride / MB_KV_BLOCK]: of a block's codes */
  const float *values; /* fp16 cache: [rows][stride] */
  uint32_t rows;
} mb_queries;

/* What softmax made of their scores. */
typedef struct {
  const float *terms; /* row r's begin at r * stride */
  size_t stride;
  const float *sums; /* [rows]: of all of a row's terms, also of those that are not here; not for fp16 */
  uint32_t rows;
} mb_terms;

typedef struct {
  const char *name; /* "scalar", "avx2", "avx512", "neon", "neon_dotprod" */

  /* values[count][padded] -> codes, scales, sums for the vectors first..last-1, and their places in the panel
   * (count > 1). The call that holds vector count-1 also zeroes the panel's rounding vectors. group != 0 or 0 as set in
   * x. */
  void (*quantise)(mb_activations *x, uint32_t first, uint32_t last);

  /* y[n * y_stride + r] = sum over columns of w[r][c] * x[n][c], for rows row_begin..row_end-1 (both multiples of 16;
   * row_end may be the padded row count: rows >= w->rows are not written) and all x->count vectors.
   * Ternary, sparse ternary (group 0):
   *   y = ((float)S * s) * scales[n], S = sum (code-1) * q, s the row's or the tensor's scale.
   * Vector, groups of x in order, F = 0: F = F + (float)S * scales[n][g];  y = F * (d * w->scale), d the row's scale.
   * Affine, x->group == w->group, groups in order, F = 0:
   *   symmetric:  t = (float)(S - 2^(bits-1) * sums) * d      (8 bits: S * d)
   *   asymmetric: t = (float)S * d + (float)sums * m
   *   with MB_FLAG_E4M4: t = ((float)S - (float)sums * zero) * d, zero = z / 2^(8-bits); only the last product rounds
   *   F = F + t * scales[n][g];  y = F * w->scale.
   * Signs: as symmetric affine, with S - 2^(bits-1) * sums being the sum of the activations, each with its weight's
   * sign. BF16, F32: 16 partial sums, column c goes to sum c % 16 in order, multiply then add, on x->values; then
   * sum[i] += sum[i + 8] for i < 8, += 4 for i < 4, += 2 for i < 2, sum[0] + sum[1]. */
  void (*multiply)(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                   uint32_t row_end);

  /* Attention over a KV cache of 8 or of 4 bits, in integers as far as possible; keys and values may differ.
   * scores[r * scores_stride + p] = F; F = 0, for blocks b in order: F = F + (float)D * (qs[r][b] * ks[p][b]),
   *   D = sum of the 32 products of codes, qs and ks the blocks' scales. */
  void (*scores_int8)(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride);
  void (*scores_int4)(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride);
  /* out[r * stride + d] += for tiles of MB_KV_TILE positions in order: (float)S * t, for the dimensions d of the blocks
   * first_block..last_block-1; stride = blocks * MB_KV_BLOCK.
   *   a[p] = terms[r][p] * vs[p][block], but 0 where the term is 0 (a position that the query does not see, whatever
   * lies there); A = max |a[p]| over the tile; N = 127 * 128 where one of the tile's terms is above sums[r] / 128,
   * otherwise 127 (so the step is at most 2^-14 of what all positions weigh); t = A / N; W[p] = round to nearest
   * even(a[p] * (N / A)); S = sum of W[p] * v[p][d]. W = 0 and t = 0 where A < 2^-100; t = NaN where an a[p] is not
   * finite. */
  void (*mix_int8)(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                   float *out);
  void (*mix_int4)(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                   float *out);

  /* Blocks of MB_KV_BLOCK floats to codes of a KV cache and their scales; NaN, with codes of 0, where a value of the
   * block is not finite. 8 bits, also of queries: codes in [-127, 127], scale max|v| / 127; and the sum of a block's
   * codes. 4 bits, one block: codes in [-8, 7], the largest value -8, and the scale that suits the codes best:
   * sum v c / sum c c, the products added in order. */
  void (*kv_codes_8)(const float *v, uint32_t blocks, int8_t *codes, float *scales, int32_t *sums);
  float (*kv_codes_4)(const float v[MB_KV_BLOCK], int8_t codes[MB_KV_BLOCK]);
  /* What comes into a cache of 4 bits is turned first: outliers are spread over their block, products of two turned
   * vectors are those of the vectors, and turning twice gives the vector again (QuaRot, Ashkboos et al. 2024, section
   * 4). v = MB_TURN_SCALE * (H v) for every block of MB_KV_BLOCK floats, H the Hadamard matrix by its fast transform:
   * for the bits of an element's index from the lowest on, x + y replaces the x that lacks the bit, x - y the y that
   * has it. */
  void (*turn)(float *v, uint32_t blocks);
  /* Whole groups of keys, or of values, of 8 bits to codes and scales of 4: of every block, codes times their scale,
   * turned, then as kv_codes_4. */
  void (*coarsen)(const mb_kv_groups *fine, bool keys, uint8_t *codes, uint16_t *scales);

  /* Attention over an fp16 cache, in floats.
   * scores: 8 lanes, lane j += q[8i + j] * k[p][8i + j] for i in order; lanes then add as (i, i + 4), (i, i + 2),
   *   (0 + 1). */
  void (*scores_f16)(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride);
  /* out[r * stride + d] += for p in order: terms[r][p] * v[p][d], d as above. */
  void (*mix_f16)(const mb_terms *terms, const mb_kv_head *values, uint32_t first_block, uint32_t last_block,
                  float *out);

  /* Vector functions of the decoder, on n floats. */
  float (*sum_squares)(const float *v, uint32_t n); /* 8 partial sums, element i in sum i % 8; lanes add as above */
  void (*silu_multiply)(float *gate, const float *up, uint32_t n); /* gate = gate / (1 + exp(-gate)) * up */
  void (*gelu_multiply)(float *gate, const float *up, uint32_t n); /* gate = gate / (1 + exp(-u)) * up: exponential.h */
  /* scores -> exp(score - max) in place; returns their sum (8 partial sums as in sum_squares) */
  float (*softmax_terms)(float *scores, uint32_t n);
} mb_kernels;

/* The best table this processor can run; `name` NULL or "auto": chosen, otherwise exactly that one, or NULL when this
 * build or processor has no such table. */
const mb_kernels *mb_kernels_select(const char *name);
/* The names this processor can run, best first; NULL ends the list. */
const char *const *mb_kernels_available(void);

#endif

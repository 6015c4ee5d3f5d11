/* SeedLM's exact search (Shafipour et al. 2024, arXiv:2410.10714, section 3.3): for every block of weights the seed
 * whose pseudo-random matrix U, with 4-bit coefficients and a shared exponent, comes nearest to it.
 *
 * Vocabulary: C weights in a block, P coefficients. The states of the LFSR form one cycle of 65,535; a place is a
 * position n on it, and the seed there is its state. U[i][p] = v[n + 1 + i * P + p] with v = state - 32768, so that
 * (U'b)[p] = c(n + p) with c(n) = sum over i of b[i] * v[n + 1 + i * P]: one correlation serves all P columns.
 * L is the Cholesky factor of U'U and z = L^-1 U'b, so |z|^2 is what U can take off |b|^2 at best:
 *     |b - U q|^2 >= |b|^2 - |z|^2   for every q,
 * a bound in float32 (with an allowance for its rounding) that leaves a handful of seeds to be evaluated exactly.
 *
 * Evaluation, in float64, in this order, so that every implementation gives the same bits:
 *     c[p] = 0 + b[0] * v + b[1] * v + ...;  z[p] = 0 + K[p][0] * c[0] + ... + K[p][p] * c[p]  (K = L^-1)
 *     t[p] = 0 + K[p][p] * z[p] + K[p + 1][p] * z[p + 1] + ...
 *     e = -8 + how many k in -8..6 have max|t| > 7.5 * 2^k;  q[p] = clip(round half even(t[p] * 2^-e), -8, 7)
 *     error = 0 + d[0]^2 + d[1]^2 + ...,  d[i] = b[i] - S[i] * 2^e,  S[i] = sum over p of U[i][p] * q[p]
 * The least error wins; of equal ones the lowest seed. */
#ifndef MB_SEARCH_SEEDLM_SEARCH_H
#define MB_SEARCH_SEEDLM_SEARCH_H

#include "mobile_bundle/mobile_bundle.h"

#define MB_SEEDLM_PLACES 65536 /* 65,535 seeds, and one place without a seed that rounds up */
#define MB_SEEDLM_STATES 65600 /* places, and room for the last one's block */
#define MB_SEEDLM_TILE 512     /* places that are bounded at once */
#define MB_SEEDLM_LENGTH 12    /* the longest block */
#define MB_SEEDLM_COEFFICIENTS 4

typedef struct {
  uint32_t length, coefficients; /* C, P: 8, 3 or 12, 4 */
  const float *states;           /* [MB_SEEDLM_STATES] v, going round the cycle */
  const double *factors; /* [place][P (P + 1) / 2] K: (0,0), (1,0), (1,1), (2,0) ...; 0 where there is no seed */
  const float *bounds;   /* the same in float32: [place / 8][P (P + 1) / 2][place % 8] */
  const uint16_t *seeds; /* [place]; 0: no seed here, or one whose U is near singular */
  double smallest;       /* the smallest singular value of any U that is used */
} mb_seedlm_tables;

/* The places first..first + MB_SEEDLM_TILE - 1 whose |z|^2 is `need` or more: their offsets from `first` go to
 * `found`, every place's |z|^2 to `scores`. Gives how many. */
typedef uint32_t (*mb_seedlm_scan)(const mb_seedlm_tables *tables, const float *block, uint32_t first, float need,
                                   float *scores, uint16_t *found);

uint32_t mb_seedlm_scan_scalar(const mb_seedlm_tables *, const float *, uint32_t, float, float *, uint16_t *);
#if defined(MB_HAVE_AVX2)
uint32_t mb_seedlm_scan_avx2(const mb_seedlm_tables *, const float *, uint32_t, float, float *, uint16_t *);
#endif

/* blocks: float32 [count][C], scaled so that S * 2^e stands for a weight. seeds [count], exponents [count],
 * coefficients [count][P]. kernels: "auto", "avx2" or "scalar". *evaluated: seeds that were evaluated exactly. */
MB_API mb_status mb_seedlm_search(const mb_seedlm_tables *tables, const float *blocks, uint64_t count, uint16_t *seeds,
                                  int8_t *exponents, int8_t *coefficients, const char *kernels, uint32_t threads,
                                  uint64_t *evaluated);

#endif

#include "search/seedlm_search.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "base/processor.h"
#include "base/thread_pool.h"

enum { GROUP = 32 }; /* blocks that share a tile's tables while those are in the first-level cache */

/* Float32 error of a bound, relative to |b|^2: with cond(U) < 56 for all seeds in use, c is off by at most
 * (C + 1) 2^-24 |b| |u|, so z by sqrt(P) (C + P + 1) 2^-24 * 56 |b| < 1.2e-4 |b|, and |z|^2 by 2.4e-4 |b|^2. */
#define ALLOWANCE 2.5e-4

typedef struct {
  double norm; /* |b|^2 */
  double error;
  uint16_t seed;
  int8_t exponent, q[MB_SEEDLM_COEFFICIENTS];
} answer;

typedef struct {
  const mb_seedlm_tables *tables;
  const float *blocks;
  uint64_t count;
  uint16_t *seeds;
  int8_t *exponents, *coefficients;
  mb_seedlm_scan scan;
  uint16_t lowest_seed;
  _Atomic uint64_t evaluated;
} search;

uint32_t mb_seedlm_scan_scalar(const mb_seedlm_tables *tables, const float *block, uint32_t first, float need,
                               float *scores, uint16_t *found) {
  const uint32_t stride = tables->coefficients;
  float c[MB_SEEDLM_TILE + MB_SEEDLM_COEFFICIENTS - 1];
  for (uint32_t n = 0; n < MB_SEEDLM_TILE + stride - 1; n++) {
    const float *v = tables->states + first + n + 1;
    c[n] = 0;
    for (uint32_t i = 0; i < tables->length; i++) c[n] += block[i] * v[(size_t)i * stride];
  }
  uint32_t count = 0;
  for (uint32_t n = 0; n < MB_SEEDLM_TILE; n++) {
    const float *factor = tables->bounds + (size_t)(first + n) / 8 * (stride * (stride + 1) / 2) * 8 + n % 8;
    scores[n] = 0;
    for (uint32_t p = 0; p < stride; p++) {
      float z = 0;
      for (uint32_t k = 0; k <= p; k++, factor += 8) z += *factor * c[n + k];
      scores[n] += z * z;
    }
    if (scores[n] >= need) found[count++] = (uint16_t)n;
  }
  return count;
}

/* The error of the seed at `place` against the best so far. */
static void evaluate(const mb_seedlm_tables *tables, const float *block, uint32_t place, answer *best) {
  const uint16_t seed = tables->seeds[place];
  if (seed == 0) return;
  const uint32_t length = tables->length, count = tables->coefficients;
  const float *v = tables->states + place + 1;
  const double *factor = tables->factors + (size_t)place * (count * (count + 1) / 2);
  double c[MB_SEEDLM_COEFFICIENTS], z[MB_SEEDLM_COEFFICIENTS], t[MB_SEEDLM_COEFFICIENTS] = {0}, largest = 0;
  for (uint32_t p = 0; p < count; p++) {
    c[p] = 0;
    for (uint32_t i = 0; i < length; i++) c[p] += (double)block[i] * (double)v[i * count + p];
  }
  for (uint32_t p = 0; p < count; p++) {
    z[p] = 0;
    for (uint32_t k = 0; k <= p; k++) z[p] += factor[p * (p + 1) / 2 + k] * c[k];
  }
  for (uint32_t p = 0; p < count; p++) {
    for (uint32_t k = p; k < count; k++) t[p] += factor[k * (k + 1) / 2 + p] * z[k];
    largest = fmax(largest, fabs(t[p]));
  }
  int e = -8;
  while (e < 7 && largest > ldexp(7.5, e)) e++;
  int32_t q[MB_SEEDLM_COEFFICIENTS];
  for (uint32_t p = 0; p < count; p++) q[p] = (int32_t)fmin(fmax(rint(ldexp(t[p], -e)), -8.0), 7.0);
  const double step = ldexp(1.0, e);
  double error = 0;
  for (uint32_t i = 0; i < length; i++) {
    int32_t sum = 0;
    for (uint32_t p = 0; p < count; p++) sum += (int32_t)v[i * count + p] * q[p];
    const double d = (double)block[i] - (double)sum * step;
    error += d * d;
  }
  if (error < best->error || (error == best->error && seed < best->seed)) {
    best->error = error;
    best->seed = seed;
    best->exponent = (int8_t)e;
    for (uint32_t p = 0; p < count; p++) best->q[p] = (int8_t)q[p];
  }
}

/* What |z|^2 must reach for a seed to be as good as the best so far. */
static float needed(const answer *best) { return (float)(best->norm * (1 - ALLOWANCE) - best->error); }

/* One tile of places for one block; gives how many were evaluated. */
static uint32_t search_tile(const search *s, const float *block, uint32_t first, answer *best) {
  float scores[MB_SEEDLM_TILE];
  uint16_t found[MB_SEEDLM_TILE];
  const uint32_t count = s->scan(s->tables, block, first, needed(best), scores, found);
  if (count == 0) return 0;
  uint32_t top = 0, evaluated = 1; /* the most promising place first: its error sorts out most of the others */
  for (uint32_t i = 1; i < count; i++)
    if (scores[found[i]] > scores[found[top]]) top = i;
  evaluate(s->tables, block, first + found[top], best);
  for (uint32_t i = 0; i < count; i++) {
    if (i == top || !(scores[found[i]] >= needed(best))) continue;
    evaluate(s->tables, block, first + found[i], best);
    evaluated++;
  }
  return evaluated;
}

/* All coefficients of every seed round to zero: |t| <= |b| / smallest, and the first code above zero starts at 2^-9.
 * Every seed is then as good as any other. */
static bool vanishes(const mb_seedlm_tables *tables, double norm) {
  return sqrt(norm) < tables->smallest * 0x1p-9 * (1 - 1e-9);
}

static void search_blocks(void *context, uint32_t first_group, uint32_t last_group, uint32_t thread) {
  (void)thread;
  search *s = context;
  const uint32_t length = s->tables->length, coefficients = s->tables->coefficients;
  uint64_t evaluated = 0;
  for (uint64_t first = (uint64_t)first_group * GROUP; first < (uint64_t)last_group * GROUP && first < s->count;
       first += GROUP) {
    const uint32_t here = s->count - first < GROUP ? (uint32_t)(s->count - first) : GROUP;
    answer best[GROUP];
    for (uint32_t k = 0; k < here; k++) {
      const float *block = s->blocks + (first + k) * length;
      best[k] = (answer){.error = INFINITY, .seed = s->lowest_seed, .exponent = -8};
      for (uint32_t i = 0; i < length; i++) best[k].norm += (double)block[i] * (double)block[i];
    }
    for (uint32_t place = 0; place < MB_SEEDLM_PLACES; place += MB_SEEDLM_TILE)
      for (uint32_t k = 0; k < here; k++)
        if (!vanishes(s->tables, best[k].norm))
          evaluated += search_tile(s, s->blocks + (first + k) * length, place, &best[k]);
    for (uint32_t k = 0; k < here; k++) {
      s->seeds[first + k] = best[k].seed;
      s->exponents[first + k] = best[k].exponent;
      memcpy(s->coefficients + (first + k) * coefficients, best[k].q, coefficients);
    }
  }
  atomic_fetch_add(&s->evaluated, evaluated);
}

static mb_seedlm_scan choose(const char *kernels) {
  const bool any = strcmp(kernels, "auto") == 0;
#if defined(MB_HAVE_AVX2)
  if ((any || strcmp(kernels, "avx2") == 0) && mb_processor_has_avx2() && mb_processor_has_fma())
    return mb_seedlm_scan_avx2;
#endif
  return any || strcmp(kernels, "scalar") == 0 ? mb_seedlm_scan_scalar : NULL;
}

mb_status mb_seedlm_search(const mb_seedlm_tables *tables, const float *blocks, uint64_t count, uint16_t *seeds,
                           int8_t *exponents, int8_t *coefficients, const char *kernels, uint32_t threads,
                           uint64_t *evaluated) {
  if (!((tables->length == 8 && tables->coefficients == 3) || (tables->length == 12 && tables->coefficients == 4)))
    return mb_fail(MB_ERROR_ARGUMENT, "SeedLM has blocks of 8 with 3 coefficients or of 12 with 4");
  if (count > (uint64_t)UINT32_MAX * GROUP / 2) return mb_fail(MB_ERROR_ARGUMENT, "too many blocks for one search");
  search s = {.tables = tables,
              .blocks = blocks,
              .count = count,
              .seeds = seeds,
              .exponents = exponents,
              .coefficients = coefficients,
              .scan = choose(kernels),
              .lowest_seed = UINT16_MAX};
  if (s.scan == NULL) return mb_fail(MB_ERROR_ARGUMENT, "this processor has no %s for SeedLM's search", kernels);
  for (uint32_t place = 0; place < MB_SEEDLM_PLACES; place++)
    if (tables->seeds[place] != 0 && tables->seeds[place] < s.lowest_seed) s.lowest_seed = tables->seeds[place];
  mb_pool *pool = NULL;
  const mb_status status = mb_pool_open(threads > 0 ? threads : 1, &pool);
  if (status != MB_OK) return status;
  mb_pool_run(pool, search_blocks, &s, (uint32_t)((count + GROUP - 1) / GROUP), 1);
  mb_pool_close(pool);
  *evaluated = s.evaluated;
  return MB_OK;
}

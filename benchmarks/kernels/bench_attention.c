/* Attention of one KV head, step by step: nanoseconds per position, every kernel table and cache type.
 *
 *   bench_attention [repeats, default 15] [positions, default 2048] [heads of a KV head, 3] [head size, 64]
 *
 * "small": no position weighs more than 1 / 128 of all, which take half the products. One token's heads (decoding) and
 * those of five tokens (reading a prompt). Everything is interleaved in one process and the fastest is printed.
 * "streamed": the cache is 64 MB, so that it comes from memory, as 30 layers' does. Built from the repository's root,
 * behind `cmake -S runtime -B build/bench && cmake --build build/bench`: cc -O2 -I runtime -I runtime/include
 * benchmarks/kernels/bench_attention.c build/bench/libmobile_bundle.a -lm */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/kernels.h"

#define TOKENS 5 /* of a prompt that share a pass over the keys: SHARING_ROWS of runtime/engine/layout.c */
#define CACHE_BYTES ((size_t)64 << 20)
#define MOST_REPEATS 256

enum { SCORES8, SCORES4, MIX8, MIX8_SMALL, MIX4, MIX4_SMALL, SOFTMAX, STEPS };
static const char *const names[STEPS] = {"scores_int8", "scores_int4",    "mix_int8",     "mix_int8 small",
                                         "mix_int4",    "mix_int4 small", "softmax_terms"};

static uint32_t positions = 2048, heads = 3, size = 64;
static uint8_t *cache;
static uint16_t *scales;
static float *weights, *out, *query_scales;
static int8_t *codes;
static int32_t *sums;
static float *term_sums;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *area(size_t bytes) {
  void *p = NULL;
  if (posix_memalign(&p, 64, bytes) == 0) return p;
  fprintf(stderr, "no memory\n");
  exit(1);
}

/* One step over one KV head whose cache begins at byte `at`. */
static void step(const mb_kernels *kernels, int which, uint32_t rows, size_t at) {
  const uint32_t blocks = size / MB_KV_BLOCK;
  const mb_queries queries = {.codes = codes, .scales = query_scales, .sums = sums, .rows = rows};
  const mb_terms terms = {weights, positions, term_sums, rows};
  const mb_kv_groups int8 = {cache + at, scales + at / MB_KV_BLOCK, blocks, positions};
  const mb_kv_groups int4 = {cache + at, scales + at * 2 / MB_KV_BLOCK, blocks, positions};
  switch (which) {
    case SCORES8:
      kernels->scores_int8(&queries, &int8, weights, positions);
      break;
    case SCORES4:
      kernels->scores_int4(&queries, &int4, weights, positions);
      break;
    case MIX8:
    case MIX8_SMALL:
      kernels->mix_int8(&terms, &int8, 0, blocks, out);
      break;
    case MIX4:
    case MIX4_SMALL:
      kernels->mix_int4(&terms, &int4, 0, blocks, out);
      break;
    case SOFTMAX:
      for (uint32_t r = 0; r < rows; r++) kernels->softmax_terms(weights + r * positions, positions);
  }
}

int main(int argc, char **argv) {
  const int repeats = argc > 1 ? atoi(argv[1]) : 15;
  if (argc > 2) positions = (uint32_t)atoi(argv[2]);
  if (argc > 3) heads = (uint32_t)atoi(argv[3]);
  if (argc > 4) size = (uint32_t)atoi(argv[4]);
  if (repeats < 1 || repeats > MOST_REPEATS || positions < MB_KV_GROUP || positions % MB_KV_GROUP != 0 || heads < 1 ||
      size < MB_KV_BLOCK || size % MB_KV_BLOCK != 0) {
    fprintf(stderr, "bench_attention [repeats 1..%d] [positions, a multiple of %d] [heads] [size, a multiple of %d]\n",
            MOST_REPEATS, MB_KV_GROUP, MB_KV_BLOCK);
    return 1;
  }
  const size_t rows = (size_t)heads * TOKENS, blocks = size / MB_KV_BLOCK;
  cache = area(CACHE_BYTES);
  scales = area(CACHE_BYTES / MB_KV_BLOCK * 4);
  weights = area(rows * positions * sizeof *weights);
  out = area(rows * size * sizeof *out);
  codes = area(rows * size);
  query_scales = area(rows * blocks * sizeof *query_scales);
  sums = area(rows * blocks * sizeof *sums);
  term_sums = area(rows * sizeof *term_sums);
  for (size_t i = 0; i < CACHE_BYTES; i++) cache[i] = (uint8_t)(rand() % 255 + 129);
  for (size_t i = 0; i < CACHE_BYTES / MB_KV_BLOCK * 2; i++) scales[i] = (uint16_t)(0x2000 + rand() % 0x400);
  for (size_t i = 0; i < rows * size; i++) codes[i] = (int8_t)(rand() % 255 - 127), out[i] = 0;
  for (size_t i = 0; i < rows * blocks; i++) query_scales[i] = 0.001f, sums[i] = 1;
  const char *const *tables = mb_kernels_available();
  printf("%-8s %-14s %10s %10s %14s %10s   ns per position of one KV head: %u heads of %u, %u positions\n", "table",
         "step", "1 token", "streamed", "5, per token", "streamed", heads, size, positions);
  const size_t head = (size_t)positions * size, places = CACHE_BYTES / head;
  size_t place = 0; /* goes round, so that no table finds what the one before has loaded */
  for (int which = 0; which < STEPS; which++) {
    double best[8][4];
    for (int i = 0; i < repeats; i++)
      for (int t = 0; tables[t] != NULL; t++)
        for (int kind = 0; kind < 4; kind++) {
          const uint32_t tokens = kind < 2 ? 1 : TOKENS, streamed = kind % 2;
          const bool small = which == MIX8_SMALL || which == MIX4_SMALL;
          const mb_kernels *kernels = mb_kernels_select(tables[t]);
          for (size_t j = 0; j < rows * positions; j++) weights[j] = (float)(j % 97 + 1) * 0.01f;
          for (size_t j = 0; j < rows; j++) term_sums[j] = small ? 1000 : 1;
          if (!streamed) step(kernels, which, heads * tokens, 0);
          const double start = now();
          for (size_t again = 0; again < 8; again++)
            step(kernels, which, heads * tokens, streamed ? place++ % places * head : 0);
          const double ns = (now() - start) / 8 / positions / tokens * 1e9;
          if (i == 0 || ns < best[t][kind]) best[t][kind] = ns;
        }
    for (int t = 0; tables[t] != NULL; t++)
      printf("%-8s %-14s %10.2f %10.2f %14.2f %10.2f\n", tables[t], names[which], best[t][0], best[t][1], best[t][2],
             best[t][3]);
  }
  return 0;
}

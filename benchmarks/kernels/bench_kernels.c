/* Speed of the kernels on the seven matrices of Qwen2.5-1.5B's layers, streamed from memory, beside the memory roof.
 *
 *   bench_kernels [repeats, default 7] [only rows whose name contains this] [kernel table, default the best]
 *
 * Everything is interleaved in one process and medians are printed: on a shared machine compare the columns of one run.
 * Weights are random bits. 28 layers for one vector; LAYERS_PANEL layers for many, which are limited by arithmetic. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/kernels.h"
#include "packed/layout.h"
#include "packed/vector_layout.h"

#define LAYERS 28
#define LAYERS_PANEL 4
#define MATRICES 7
#define MOST_VECTORS 64
#define MOST_THREADS 2
#define MOST_REPEATS 64
#define WEIGHT_BYTES ((size_t)768 << 20)
#define ROOF_BYTES ((size_t)512 << 20)

static const uint32_t shapes[MATRICES][2] = {{1536, 1536}, {256, 1536},  {256, 1536}, {1536, 1536},
                                             {8960, 1536}, {8960, 1536}, {1536, 8960}};

typedef struct {
  const char *name;
  mb_format format;
  uint32_t group, flags;
} row;

#define VECTOR(length, index_bits) (MB_FLAG_SHARED_CODEBOOK | (length) << 4 | (index_bits) << 8)

static const row rows[] = {
    {"ternary", MB_FORMAT_TERNARY2, 0, 0},
    {"sparse ternary", MB_FORMAT_SPARSE_TERNARY, 0, 0},
    {"affine 2 g64 asym", MB_FORMAT_AFFINE2, 64, MB_FLAG_ASYMMETRIC},
    {"affine 2 g128 asym", MB_FORMAT_AFFINE2, 128, MB_FLAG_ASYMMETRIC},
    {"affine 2 g32 sym", MB_FORMAT_AFFINE2, 32, 0},
    {"affine 3 g64 asym", MB_FORMAT_AFFINE3, 64, MB_FLAG_ASYMMETRIC},
    {"affine 3 g32 e4m4", MB_FORMAT_AFFINE3, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4},
    {"affine 3 g128 sym", MB_FORMAT_AFFINE3, 128, 0},
    {"affine 4 g64 asym", MB_FORMAT_AFFINE4, 64, MB_FLAG_ASYMMETRIC},
    {"affine 4 g32 sym", MB_FORMAT_AFFINE4, 32, 0},
    {"affine 4 g32 e4m4", MB_FORMAT_AFFINE4, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4},
    {"affine 4 g128 sym", MB_FORMAT_AFFINE4, 128, 0},
    {"affine 5 g64 sym", MB_FORMAT_AFFINE5, 64, 0},
    {"affine 5 g32 asym", MB_FORMAT_AFFINE5, 32, MB_FLAG_ASYMMETRIC},
    {"affine 5 g32 e4m4", MB_FORMAT_AFFINE5, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4},
    {"affine 6 g64 sym", MB_FORMAT_AFFINE6, 64, 0},
    {"affine 6 g32 asym", MB_FORMAT_AFFINE6, 32, MB_FLAG_ASYMMETRIC},
    {"affine 6 g32 e4m4", MB_FORMAT_AFFINE6, 32, MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4},
    {"affine 8 g64 sym", MB_FORMAT_AFFINE8, 64, 0},
    {"signs g128", MB_FORMAT_SIGN1, 128, 0},
    {"signs g32", MB_FORMAT_SIGN1, 32, 0},
    {"trellis 2 g64", MB_FORMAT_TRELLIS2, 64, 0},
    {"trellis 2 g64 e4m4", MB_FORMAT_TRELLIS2, 64, MB_FLAG_E4M4},
    {"trellis 2 g128", MB_FORMAT_TRELLIS2, 128, 0},
    {"trellis 2.5 g64", MB_FORMAT_TRELLIS25, 64, 0},
    {"trellis 2.5 g64 e4m4", MB_FORMAT_TRELLIS25, 64, MB_FLAG_E4M4},
    {"trellis 2.5 g128", MB_FORMAT_TRELLIS25, 128, 0},
    {"trellis 3 g64", MB_FORMAT_TRELLIS3, 64, 0},
    {"trellis 3 g64 e4m4", MB_FORMAT_TRELLIS3, 64, MB_FLAG_E4M4},
    {"trellis 3 g128", MB_FORMAT_TRELLIS3, 128, 0},
    {"vector v4 256", MB_FORMAT_VECTOR, 128, VECTOR(4, 8)},
    {"vector v4 4096", MB_FORMAT_VECTOR, 128, VECTOR(4, 12)},
    {"vector v6 4096", MB_FORMAT_VECTOR, 0, VECTOR(6, 12)},
    {"vector v8 4096", MB_FORMAT_VECTOR, 128, VECTOR(8, 12)},
    {"vector v8 65536", MB_FORMAT_VECTOR, 128, VECTOR(8, 16)},
    {"bf16", MB_FORMAT_BF16, 0, 0},
};
#define ROWS (sizeof rows / sizeof *rows)

static const mb_kernels *kernels;
static uint8_t *weights;

static float *results;
static atomic_ullong sink;

typedef uint64_t four __attribute__((vector_size(32))); /* the roof is read in wide registers, as weights are */
static const four *roof_data;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *huge(size_t bytes) {
  void *p = NULL;
  if (posix_memalign(&p, (size_t)2 << 20, bytes) != 0) {
    fprintf(stderr, "no memory\n");
    exit(1);
  }
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, ascending);
  return v[n / 2];
}

/* ---- a job on one or two threads; the time from the common start to the last end ---- */

typedef struct {
  void (*run)(const void *argument, uint32_t thread, uint32_t threads);
  const void *argument;
  uint32_t threads;
  atomic_int ready, go, done;
} job;

static void *second_thread(void *v) {
  job *j = v;
  atomic_fetch_add(&j->ready, 1);
  while (!atomic_load_explicit(&j->go, memory_order_acquire)) continue;
  j->run(j->argument, 1, 2);
  atomic_fetch_add(&j->done, 1);
  return NULL;
}

static double timed(void (*run)(const void *, uint32_t, uint32_t), const void *argument, uint32_t threads) {
  job j = {.run = run, .argument = argument, .threads = threads};
  pthread_t other;
  if (threads == 2) {
    pthread_create(&other, NULL, second_thread, &j);
    while (!atomic_load(&j.ready)) continue;
  }
  double start = now();
  atomic_store(&j.go, 1);
  run(argument, 0, threads);
  while (threads == 2 && !atomic_load(&j.done)) continue;
  double seconds = now() - start;
  if (threads == 2) pthread_join(other, NULL);
  return seconds;
}

/* ---- what is measured ---- */

static void roof(const void *argument, uint32_t thread, uint32_t threads) {
  (void)argument;
  size_t n = ROOF_BYTES / sizeof(four) / threads;
  const four *p = roof_data + n * thread;
  four a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t i = 0; i < n; i += 4) {
    __builtin_prefetch(p + i + 64); /* 2 KB ahead: what one Intel core needs to get all there is */
    a += p[i], b += p[i + 1], c += p[i + 2], d += p[i + 3];
  }
  a += b + c + d;
  atomic_fetch_add(&sink, a[0] + a[1] + a[2] + a[3]);
}

typedef struct {
  const row *row;
  uint32_t count, layers;
  mb_activations x[2]; /* 1536 and 8960 columns */
} work;

static uint64_t layer_bytes(const row *r) {
  uint64_t bytes = 0;
  for (int m = 0; m < MATRICES; m++)
    bytes += (mb_payload_bytes(r->format, shapes[m][0], shapes[m][1], r->group, r->flags) + 63) / 64 * 64;
  return bytes;
}

/* The parts of a vector matrix at w->data; all of them share one codebook. */
static void view_vector(mb_matrix *w) {
  const mb_vector_offsets at = mb_vector_layout(w->rows, w->columns, w->flags);
  mb_vector_parts *v = &w->vector;
  v->length = MB_VECTOR_LENGTH(w->flags);
  v->index_bits = MB_VECTOR_INDEX_BITS(w->flags);
  v->stride = mb_vector_stride(v->length);
  v->vectors = (w->columns + v->length - 1) / v->length;
  v->index_bytes = mb_vector_row_bytes(w->columns, v->length, v->index_bits);
  v->row_scales = w->data + at.row_scales;
  v->indices = w->data + at.indices;
  mb_vector_bind(w, (const int8_t *)weights);
}

static void stream(const void *argument, uint32_t thread, uint32_t threads) {
  const work *k = argument;
  size_t at = 0;
  for (uint32_t layer = 0; layer < k->layers; layer++)
    for (int m = 0; m < MATRICES; m++) {
      mb_matrix w = {.format = k->row->format,
                     .rows = shapes[m][0],
                     .columns = shapes[m][1],
                     .group = k->row->group,
                     .flags = k->row->flags,
                     .scale = 1};
      size_t bytes = (size_t)mb_payload_bytes(w.format, w.rows, w.columns, w.group, w.flags);
      if (at + bytes > WEIGHT_BYTES) at = 0; /* the wide formats go round */
      w.data = weights + at;
      if (w.format == MB_FORMAT_VECTOR) view_vector(&w);
      at += (bytes + 63) / 64 * 64;
      uint32_t part = w.rows / threads;
      kernels->multiply(&w, &k->x[m == 6], results, 8960, part * thread, part * (thread + 1));
    }
}

static mb_activations activations(uint32_t columns, uint32_t group, uint32_t count) {
  mb_activations x = {
      .columns = columns, .padded = mb_round_up(columns, MB_COLUMN_PADDING), .group = group, .count = count};
  x.groups = group != 0 ? x.padded / group : 1;
  size_t all = (size_t)count * x.padded;
  float *values = huge(all * 4);
  for (size_t i = 0; i < all; i++) values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  x.values = values;
  x.codes = huge(all);
  x.scales = huge((size_t)count * x.groups * 4);
  x.sums = huge((size_t)count * x.groups * 4);
  x.panel = huge((size_t)mb_round_up(count, 4) * x.padded);
  kernels->quantise(&x, 0, count);
  return x;
}

/* ---- vector functions, one thread, in L2; attention: bench_attention.c ---- */

#define VALUES 6144

static void other_functions(int repeats) {
  enum { SOFTMAX, SILU, QUANTISE, OTHERS };
  static const char *const names[OTHERS] = {"softmax_terms", "silu_multiply", "quantise (64 x 1536)"};
  float *scores = huge(VALUES * 4), *gate = huge(VALUES * 4);
  mb_activations x = activations(1536, 64, 64);
  double seconds[OTHERS][MOST_REPEATS];
  for (int i = 0; i < repeats; i++)
    for (int f = 0; f < OTHERS; f++) {
      for (int j = 0; j < VALUES; j++) gate[j] = 1; /* it shrinks, and subnormal numbers are slow */
      double start = now();
      for (int again = 0; again < 20; again++) switch (f) {
          case SOFTMAX:
            kernels->softmax_terms(scores, VALUES);
            break;
          case SILU:
            kernels->silu_multiply(gate, scores, VALUES);
            break;
          case QUANTISE:
            kernels->quantise(&x, 0, 64);
        }
      seconds[f][i] = (now() - start) / 20;
    }
  printf("\n%-24s %10s %12s   (vectors of %d)\n", "one thread, warm", "us", "per ns", VALUES);
  for (int f = 0; f < OTHERS; f++) {
    double s = median(seconds[f], repeats), work = f == QUANTISE ? 64 * 1536 : VALUES;
    printf("%-24s %10.1f %12.2f\n", names[f], s * 1e6, work / s * 1e-9);
  }
}

int main(int argc, char **argv) {
  int repeats = argc > 1 ? atoi(argv[1]) : 7;
  const char *only = argc > 2 ? argv[2] : "";
  kernels = mb_kernels_select(argc > 3 ? argv[3] : NULL);
  if (kernels == NULL || repeats < 1 || repeats > MOST_REPEATS) {
    fprintf(stderr, "bench_kernels [repeats 1..%d] [name] [kernel table]\n", MOST_REPEATS);
    return 1;
  }
  uint64_t *all = huge(ROOF_BYTES);
  uint16_t *halves = huge(WEIGHT_BYTES);
  for (size_t i = 0; i < ROOF_BYTES / 8; i++) all[i] = i;
  uint64_t state = 12345;
  for (size_t i = 0; i < WEIGHT_BYTES / 2; i++) { /* neither subnormal nor infinite as fp16 or bf16 */
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    halves[i] = (uint16_t)((state >> 40 & 0xbfff) | 0x3000);
  }
  roof_data = (const four *)(const void *)all;
  weights = (uint8_t *)halves;
  results = huge((size_t)8960 * MOST_VECTORS * sizeof *results);

  static const uint32_t counts[] = {1, 32, MOST_VECTORS};
  enum { COUNTS = 3 };
  static work works[ROWS][COUNTS];
  static double seconds[ROWS][COUNTS][MOST_THREADS + 1][MOST_REPEATS], roofs[MOST_THREADS + 1][MOST_REPEATS];
  double per_layer = 0;
  for (int m = 0; m < MATRICES; m++) per_layer += (double)shapes[m][0] * shapes[m][1];
  for (size_t r = 0; r < ROWS; r++)
    for (int c = 0; c < COUNTS; c++) {
      if (strstr(rows[r].name, only) == NULL) continue;
      work *k = &works[r][c];
      *k = (work){.row = &rows[r], .count = counts[c], .layers = counts[c] == 1 ? LAYERS : LAYERS_PANEL};
      k->x[0] = activations(1536, rows[r].group, counts[c]);
      k->x[1] = activations(8960, rows[r].group, counts[c]);
    }
  for (int i = 0; i < repeats; i++)
    for (uint32_t threads = 1; threads <= MOST_THREADS; threads++) {
      roofs[threads][i] = timed(roof, NULL, threads);
      for (size_t r = 0; r < ROWS; r++)
        for (int c = 0; c < COUNTS; c++)
          if (works[r][c].row != NULL) seconds[r][c][threads][i] = timed(stream, &works[r][c], threads);
    }

  double top[MOST_THREADS + 1];
  for (int t = 1; t <= MOST_THREADS; t++) top[t] = ROOF_BYTES / median(roofs[t], repeats) * 1e-9;
  printf("kernels %s; memory roof %.1f / %.1f GB/s on 1 / 2 threads; medians of %d\n\n", kernels->name, top[1], top[2],
         repeats);
  printf(
      "%-20s %5s | one vector, 1 and 2 threads: GB/s, Gweights/s, of roof | 10^9 products/s: 32, 64 vectors x 1, 2 "
      "threads\n",
      "", "bits");
  for (size_t r = 0; r < ROWS; r++) {
    if (works[r][0].row == NULL) continue;
    double bytes = (double)layer_bytes(&rows[r]);
    printf("%-20s %5.2f |", rows[r].name, bytes * 8 / per_layer);
    for (int t = 1; t <= MOST_THREADS; t++) {
      double s = median(seconds[r][0][t], repeats) / LAYERS;
      printf(" %6.1f %6.1f %4.2f |", bytes / s * 1e-9, per_layer / s * 1e-9, bytes / s * 1e-9 / top[t]);
    }
    for (int c = 1; c < COUNTS; c++)
      for (int t = 1; t <= MOST_THREADS; t++)
        printf(" %6.1f", per_layer * LAYERS_PANEL * counts[c] / median(seconds[r][c][t], repeats) * 1e-9);
    printf("\n");
  }
  other_functions(repeats);
  return 0;
}

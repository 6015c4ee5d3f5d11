#include "kernels/products.h"

#include "base/sizes.h"

enum { CLAIMS_PER_THREAD = 6 /* small enough shares that a slow core does not keep the others waiting */ };

typedef struct {
  const mb_kernels *kernels;
  mb_activations activations;
  const mb_product *products[MB_MOST_PRODUCTS];
  uint32_t product_count;
  float *values; /* the input again, writable: BitNet on unpacked weights rounds it in place */
  bool round_values;
} product_job;

static void quantise_vectors(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  product_job *job = context;
  mb_activations *x = &job->activations;
  job->kernels->quantise(x, first, last);
  if (!job->round_values) return;
  for (uint32_t n = first; n < last; n++) {
    float *v = job->values + (size_t)n * x->padded;
    const int8_t *q = x->codes + (size_t)n * x->padded;
    for (uint32_t i = 0; i < x->columns; i++) v[i] = (float)q[i] * x->scales[n];
  }
}

static uint32_t unit_count(const mb_product *p) {
  return ((p->rows ? p->rows : p->weight->rows) + MB_PRODUCT_UNIT_ROWS - 1) / MB_PRODUCT_UNIT_ROWS;
}

static void multiply_units(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const product_job *job = context;
  uint32_t base = 0;
  for (uint32_t i = 0; i < job->product_count && first < last; i++) {
    const mb_product *p = job->products[i];
    const uint32_t rows = mb_round_up(p->weight->rows, MB_STRIP_ROWS), units = unit_count(p);
    if (first < base + units) {
      const uint32_t stop = last < base + units ? last : base + units;
      const uint32_t end = p->first_row + (stop - base) * MB_PRODUCT_UNIT_ROWS;
      job->kernels->multiply(p->weight, &job->activations, p->out, p->stride,
                             p->first_row + (first - base) * MB_PRODUCT_UNIT_ROWS, end < rows ? end : rows);
      first = stop;
    }
    base += units;
  }
}

static uint64_t aligned(uint64_t bytes) { return mb_size_round_up(bytes, 64); }

uint64_t mb_product_scratch_bytes(uint32_t columns, uint32_t count) {
  const uint64_t padded = mb_size_round_up(columns, MB_COLUMN_PADDING), groups = padded / 32; /* the smallest group */
  const uint64_t numbers = aligned(mb_size_multiply(mb_size_multiply(count, groups), 4));
  return mb_size_add(mb_size_add(aligned(mb_size_multiply(count, padded)), mb_size_multiply(2, numbers)),
                     aligned(mb_size_multiply(padded, mb_size_round_up(count, 4))));
}

mb_product_scratch mb_product_scratch_place(void *area, uint32_t columns, uint32_t count) {
  /* The whole area fits this process, and so does every part. */
  const size_t padded = mb_round_up(columns, MB_COLUMN_PADDING), groups = padded / 32;
  uint8_t *at = area;
  mb_product_scratch scratch;
  scratch.codes = (int8_t *)at;
  at += (size_t)aligned(count * padded);
  scratch.scales = (float *)(void *)at;
  at += (size_t)aligned(count * groups * sizeof(float));
  scratch.sums = (int32_t *)(void *)at;
  at += (size_t)aligned(count * groups * sizeof(int32_t));
  scratch.panel = (int8_t *)at;
  return scratch;
}

void mb_products(const mb_kernels *kernels, const mb_parallel *parallel, const mb_product_scratch *scratch,
                 float *values, uint32_t count, bool round_values, const mb_product *products, uint32_t product_count) {
  const uint32_t columns = products[0].weight->columns, padded = mb_round_up(columns, MB_COLUMN_PADDING);
  bool done[MB_MOST_PRODUCTS] = {false};
  for (uint32_t i = 0; i < product_count; i++) {
    if (done[i]) continue;
    const uint32_t group = products[i].weight->group;
    product_job job = {.kernels = kernels, .values = values};
    uint32_t units = 0;
    bool float_weights = false;
    for (uint32_t j = i; j < product_count; j++) {
      const mb_matrix *w = products[j].weight;
      if (w->group != group) continue;
      done[j] = true;
      job.products[job.product_count++] = &products[j];
      units += unit_count(&products[j]);
      float_weights |= w->format == MB_FORMAT_BF16 || w->format == MB_FORMAT_F32;
    }
    job.activations = (mb_activations){.columns = columns,
                                       .padded = padded,
                                       .group = group,
                                       .groups = group ? padded / group : 1,
                                       .count = count,
                                       .values = values,
                                       .codes = scratch->codes,
                                       .scales = scratch->scales,
                                       .sums = scratch->sums,
                                       .panel = scratch->panel};
    job.round_values = float_weights && round_values;
    parallel->run(parallel->pool, quantise_vectors, &job, count, count == 1 ? 1 : 4);
    const uint32_t grain = units / (parallel->threads * CLAIMS_PER_THREAD);
    parallel->run(parallel->pool, multiply_units, &job, units, grain ? grain : 1);
  }
}

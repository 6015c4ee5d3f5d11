#include "engine/layer_mapping.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/error.h"
#include "engine/model.h"

enum { MATRICES = 7, HEAD_STEP = 64 };

typedef struct {
  const uint8_t *data;
  uint64_t bytes;
} span;

typedef struct {
  span spans[MATRICES];
  uint32_t count;
} layer_spans;

struct mb_layer_mapping {
  uintptr_t page;
  bool ask_ahead;
  uint32_t layers;
  uint64_t layers_bytes, largest_layer; /* of all layers, of one */
  span embedding;                       /* apart from the head */
  span head;
  uint32_t head_rows, head_step;
  layer_spans layer[];
};

static span span_of(const mb_matrix *w) {
  return (span){w->data, mb_payload_bytes(w->format, w->rows, w->columns, w->group, w->flags)};
}

/* From version 6 on, kernels read mapped files in pages as large as 2 MiB (weights.c), two at a time and one ahead.
 * Asking would bring the same bytes in pages of 4 KiB: measured in a memory limit of a third of the model, 1.4 tokens/s
 * instead of 2.4. Older ones read 128 KiB at a time, which leaves a phone's storage idle in between. */
static bool must_ask_ahead(void) {
  struct utsname system;
  return uname(&system) == 0 && strtol(system.release, NULL, 10) < 6;
}

/* Asks for the pages that hold the span. */
static void want(const mb_layer_mapping *m, span s) {
  if (!m->ask_ahead) return;
  const uintptr_t begin = (uintptr_t)s.data / m->page * m->page;
  (void)madvise((void *)begin, (size_t)((uintptr_t)s.data + s.bytes - begin), MADV_WILLNEED);
}

/* Gives back the pages that lie within the span; those at its ends may hold something else that is still needed. */
static void drop(const mb_layer_mapping *m, span s) {
  const uintptr_t begin = ((uintptr_t)s.data + m->page - 1) / m->page * m->page;
  const uintptr_t end = ((uintptr_t)s.data + (uintptr_t)s.bytes) / m->page * m->page;
  if (end > begin) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* Rows first..first + head_step - 1 of the head. */
static span head_share(const mb_layer_mapping *m, uint32_t first) {
  const uint64_t row = m->head.bytes / m->head_rows, begin = row * first;
  const bool last = m->head_rows - first <= m->head_step;
  return (span){m->head.data + begin, last ? m->head.bytes - begin : row * m->head_step};
}

static void add_matrix(mb_layer_mapping *m, layer_spans *layer, const mb_matrix *w) {
  const span s = span_of(w);
  span *last = layer->count ? &layer->spans[layer->count - 1] : NULL;
  m->layers_bytes += s.bytes;
  /* Neighbours in the file become one span, so that the page between them is dropped, too. */
  if (last && s.data >= last->data + last->bytes && s.data - (last->data + last->bytes) < (ptrdiff_t)m->page) {
    last->bytes = (uint64_t)(s.data - last->data) + s.bytes;
  } else {
    layer->spans[layer->count++] = s;
  }
}

static int by_address(const void *a, const void *b) {
  const mb_matrix *const *x = a, *const *y = b;
  return (*x)->data<(*y)->data ? -1 : (*x)->data>(*y)->data;
}

/* The head is cut into shares of rows where a row range is a byte range. */
static void cut_head(mb_layer_mapping *m, const mb_matrix *head) {
  m->head_rows = head->rows;
  m->head_step = mb_round_up(head->rows, HEAD_STEP);
  if (head->format == MB_FORMAT_SPARSE_TERNARY || head->format == MB_FORMAT_VECTOR) return;
  const uint64_t share = m->largest_layer * m->head_rows / m->head.bytes / HEAD_STEP * HEAD_STEP;
  if (share < m->head_step) m->head_step = share ? (uint32_t)share : HEAD_STEP;
}

mb_status mb_layer_mapping_open(const mb_model *model, mb_layer_mapping **out) {
  const uint32_t layers = model->weights.config.layers;
  mb_layer_mapping *m = calloc(1, sizeof *m + layers * sizeof *m->layer);
  if (!m) return mb_fail(MB_ERROR_MEMORY, "no memory to open a model");
  m->page = (uintptr_t)sysconf(_SC_PAGESIZE);
  m->ask_ahead = must_ask_ahead();
  m->layers = layers;
  for (uint32_t l = 0; l < layers; l++) {
    const mb_layer *layer = &model->layers[l];
    const mb_matrix *all[] = {&layer->query.weight,       &layer->key.weight,    &layer->value.weight,
                              &layer->convolution.weight, &layer->output.weight, &layer->gate.weight,
                              &layer->up.weight,          &layer->down.weight};
    const mb_matrix *matrices[MATRICES];
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
      if (all[i]->data) matrices[count++] = all[i]; /* a layer has attention or a convolution */
    qsort(matrices, count, sizeof *matrices, by_address);
    const uint64_t before = m->layers_bytes;
    for (uint32_t i = 0; i < count; i++) add_matrix(m, &m->layer[l], matrices[i]);
    if (m->layers_bytes - before > m->largest_layer) m->largest_layer = m->layers_bytes - before;
  }
  m->embedding = span_of(&model->embedding);
  m->head = span_of(&model->head);
  cut_head(m, &model->head);
  *out = m;
  return MB_OK;
}

void mb_layer_mapping_close(mb_layer_mapping *m) { free(m); }

static void want_layer(const mb_layer_mapping *m, uint32_t l) {
  for (uint32_t i = 0; i < m->layer[l].count; i++) want(m, m->layer[l].spans[i]);
}

void mb_layer_mapping_begin(const mb_layer_mapping *m) {
  drop(m, m->embedding);
  want_layer(m, 0);
}

void mb_layer_mapping_enter(const mb_layer_mapping *m, uint32_t l) {
  if (l + 1 < m->layers) want_layer(m, l + 1);
}

static void drop_layer(const mb_layer_mapping *m, uint32_t l) {
  for (uint32_t i = 0; i < m->layer[l].count; i++) drop(m, m->layer[l].spans[i]);
}

/* The kernel may map up to 2 MiB around a page that is used, so the end of the layer before has come back. */
void mb_layer_mapping_leave(const mb_layer_mapping *m, uint32_t l) {
  if (l > 0) drop_layer(m, l - 1);
  drop_layer(m, l);
}

uint32_t mb_layer_mapping_head_rows(const mb_layer_mapping *m) { return m->head_step; }

void mb_layer_mapping_enter_head(const mb_layer_mapping *m, uint32_t first) {
  if (first == 0) want(m, head_share(m, 0));
  if (m->head_rows - first > m->head_step) {
    want(m, head_share(m, first + m->head_step));
  } else {
    want_layer(m, 0); /* of the next pass */
  }
}

void mb_layer_mapping_leave_head(const mb_layer_mapping *m, uint32_t first) {
  if (first >= m->head_step) {
    drop(m, head_share(m, first - m->head_step));
  } else {
    drop_layer(m, m->layers - 1);
  }
  drop(m, head_share(m, first));
}

uint64_t mb_layer_mapping_resident_bytes(const mb_layer_mapping *m, uint64_t touched) {
  const uint64_t share = head_share(m, 0).bytes, most = share > m->largest_layer ? share : m->largest_layer;
  const uint64_t resident = touched - m->layers_bytes - m->head.bytes + 2 * most;
  return resident < touched ? resident : touched;
}

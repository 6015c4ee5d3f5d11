#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/option_struct.h"
#include "base/sizes.h"
#include "engine/config.h"
#include "engine/session.h"

enum {
  DEFAULT_CHUNK = 32,
  MOST_CHUNK = 256,
  MOST_THREADS = 64,
  DEFAULT_MOST_THREADS = 4, /* more rarely help on a phone, whose small cores then hold the big ones back */
  CACHE_LINE = 64,
  SMALLEST_GROUP = 32,        /* of activations: the most scales and sums that an input has */
  SHARING_ROWS = 16,          /* query heads of one KV head, of several tokens, that one pass over its keys serves */
  THREAD_BYTES = 40 * 1024,   /* touched pages of a worker's stack and its bookkeeping */
  SAMPLER_BYTES = 8,          /* per token of the vocabulary */
  PROCESS_BYTES = 800 * 1024, /* the program itself, but for a few pages */
};

static uint32_t processors(void) {
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n < 1 ? 1 : n > DEFAULT_MOST_THREADS ? DEFAULT_MOST_THREADS : (uint32_t)n;
}

static mb_status resolve(const mb_model_config *config, const mb_session_options *given, mb_session_options *o) {
  mb_status status = mb_options_take("mb_session_options", given, o, sizeof *o);
  if (status != MB_OK) return status;
  if (o->context == 0) o->context = config->default_context;
  if (o->threads == 0) o->threads = processors();
  if (o->prefill_chunk == 0) o->prefill_chunk = DEFAULT_CHUNK;
  if (o->context > config->context)
    return mb_fail(MB_ERROR_ARGUMENT, "a context of %u tokens: this model was trained for %u at most", o->context,
                   config->context);
  if (o->threads > MOST_THREADS) return mb_fail(MB_ERROR_ARGUMENT, "%u threads: %d at most", o->threads, MOST_THREADS);
  if (o->prefill_chunk > MOST_CHUNK)
    return mb_fail(MB_ERROR_ARGUMENT, "a prefill chunk of %u tokens: %d at most", o->prefill_chunk, MOST_CHUNK);
  if (o->lookahead >= o->prefill_chunk)
    return mb_fail(MB_ERROR_ARGUMENT, "a lookahead of %u tokens: a prefill chunk of %u has room for %u", o->lookahead,
                   o->prefill_chunk, o->prefill_chunk - 1);
  if (o->kv_type != MB_KV_INT8 && o->kv_type != MB_KV_F16 && o->kv_type != MB_KV_INT4 && o->kv_type != MB_KV_K8V4)
    return mb_fail(MB_ERROR_ARGUMENT, "unknown type of KV cache %d", (int)o->kv_type);
  return MB_OK;
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Hands out an area piece by piece, each at the next cache line. Without a base it only counts. */
typedef struct {
  uint8_t *base;
  uint64_t used;
} arena;

static void *take(arena *a, uint64_t count, uint64_t each) {
  void *piece = a->base ? a->base + a->used : NULL;
  a->used = mb_size_add(a->used, mb_size_round_up(mb_size_multiply(count, each), CACHE_LINE));
  return piece;
}

/* Sizes that several buffers share, in elements. */
typedef struct {
  uint64_t hidden, attention_padded, feed, widest; /* padded to MB_COLUMN_PADDING */
  uint64_t attention, kv;
  uint64_t blocks;       /* of a head, MB_KV_BLOCK values each */
  uint64_t vectors;      /* of keys in the whole cache, and as many of values */
  uint64_t fine_vectors; /* the same of int4's in 8 bits */
  uint64_t table;        /* angles of a position */
  uint64_t convolutions; /* layers that have one */
} dimensions;

static dimensions dimensions_of(const mb_model_config *c, const mb_layout *layout) {
  dimensions d = {
      .hidden = mb_size_round_up(c->hidden, MB_COLUMN_PADDING),
      .feed = mb_size_round_up(c->feed_forward, MB_COLUMN_PADDING),
      .attention = mb_size_multiply(c->heads, c->head_dim),
      .kv = mb_size_multiply(c->kv_heads, c->head_dim),
      .blocks = layout->stride / MB_KV_BLOCK,
      .vectors = mb_size_multiply(c->kv_heads, mb_size_add(mb_size_multiply(layout->full_layers, layout->room),
                                                           mb_size_multiply(layout->windowed_layers, layout->ring))),
      .fine_vectors = mb_size_multiply(
          c->kv_heads, mb_size_multiply(layout->full_layers + layout->windowed_layers, layout->fine_room)),
      .table = mb_rotary_dim(c) / 2,
      .convolutions = c->layers - layout->full_layers - layout->windowed_layers};
  d.attention_padded = mb_size_round_up(d.attention, MB_COLUMN_PADDING);
  d.widest = larger(larger(d.hidden, d.attention_padded), d.feed);
  return d;
}

static void take_scratch(arena *a, const mb_model_config *c, const mb_layout *layout, mb_buffers *b) {
  const dimensions d = dimensions_of(c, layout);
  const mb_session_options *o = &layout->options;
  const uint64_t chunk = o->prefill_chunk, floats = sizeof(float), stride = layout->stride;
  const uint64_t heads = mb_size_multiply(chunk, c->heads);
  const bool coded = layout->kv_scaled;
  b->hidden = take(a, mb_size_multiply(chunk, d.hidden), floats);
  b->normed = take(a, mb_size_multiply(chunk, d.hidden), floats);
  b->query = take(a, mb_size_multiply(chunk, d.attention), floats);
  b->key = take(a, mb_size_multiply(chunk, d.kv), floats);
  b->value = take(a, mb_size_multiply(chunk, d.kv), floats);
  b->attention = take(a, mb_size_multiply(chunk, d.attention_padded), floats);
  b->gate = take(a, mb_size_multiply(chunk, d.feed), floats);
  b->up = take(a, mb_size_multiply(chunk, d.feed), floats);
  b->codes = take(a, chunk, d.widest);
  b->scales = take(a, mb_size_multiply(chunk, d.widest / SMALLEST_GROUP), floats);
  b->sums = take(a, mb_size_multiply(chunk, d.widest / SMALLEST_GROUP), sizeof(int32_t));
  b->panel = take(a, d.widest, mb_size_round_up(chunk, 4));
  const uint32_t tables = c->flags & MB_MODEL_WINDOW_ROPE ? 2 : 1;
  for (uint32_t i = 0; i < tables; i++) {
    b->cosines[i] = take(a, mb_size_multiply(chunk, d.table), floats);
    b->sines[i] = take(a, mb_size_multiply(chunk, d.table), floats);
  }
  b->query_codes = take(a, heads, coded ? stride : 0);
  b->query_scales = take(a, mb_size_multiply(heads, coded ? d.blocks : 0), floats);
  b->query_sums = take(a, mb_size_multiply(heads, coded ? d.blocks : 0), sizeof(int32_t));
  b->turned_codes = take(a, heads, layout->keys_int4 ? stride : 0);
  b->turned_scales = take(a, mb_size_multiply(heads, layout->keys_int4 ? d.blocks : 0), floats);
  b->turned_sums = take(a, mb_size_multiply(heads, layout->keys_int4 ? d.blocks : 0), sizeof(int32_t));
  b->query_padded = take(a, mb_size_multiply(heads, coded ? 0 : stride), floats);
  b->scores = take(a, mb_size_multiply(layout->score_rows, mb_size_round_up(o->context, MB_KV_TILE)), floats);
  b->mixed = take(a, mb_size_multiply(layout->score_rows, stride), floats);
  b->turned_mixed = take(a, mb_size_multiply(layout->score_rows, layout->values_int4 ? stride : 0), floats);
  b->term_sums = take(a, layout->score_rows, floats);
  b->gates = take(a, mb_size_multiply(d.convolutions ? chunk : 0, 3 * (uint64_t)c->hidden), floats);
  b->convolved = take(a, mb_size_multiply(d.convolutions ? chunk : 0, d.hidden), floats);
  b->logits = take(a, mb_size_multiply(layout->logit_rows, c->vocabulary), floats);
}

static mb_kv_part take_part(arena *a, uint64_t vectors, uint64_t key_bytes, uint64_t value_bytes, uint64_t scales) {
  mb_kv_part part; /* one after the other: the order of an initialiser's calls is the compiler's */
  part.keys = take(a, vectors, key_bytes);
  part.values = take(a, vectors, value_bytes);
  part.key_scales = take(a, vectors, scales);
  part.value_scales = take(a, vectors, scales);
  return part;
}

static void take_kv_cache(arena *a, const mb_model_config *c, const mb_layout *layout, mb_buffers *b) {
  const dimensions d = dimensions_of(c, layout);
  const uint64_t scales = layout->kv_scaled ? d.blocks * sizeof(uint16_t) : 0;
  b->cache = take_part(a, d.vectors, layout->key_bytes, layout->value_bytes, scales);
  b->fine = take_part(a, d.fine_vectors, layout->stride, layout->stride, scales);
  b->convolutions =
      take(a, mb_size_multiply(d.convolutions, layout->convolution_ring), mb_size_multiply(c->hidden, sizeof(float)));
}

/* How many layers have attention that sees all positions (windowed: a window of them). */
static uint32_t count_layers(const mb_model_config *c, bool windowed) {
  uint32_t count = 0;
  for (uint32_t l = 0; l < c->layers; l++)
    count += !mb_is_convolution(c, l) && (mb_layer_window(c, l) != 0) == windowed;
  return count;
}

/* Of a key or a value. */
static uint32_t vector_bytes(const mb_layout *layout, bool int4) {
  if (int4) return layout->stride / 2;
  return layout->kv_scaled ? layout->stride : layout->stride * 2;
}

uint32_t mb_ring(const mb_model_config *config, const mb_session_options *options) {
  const bool grouped = options->kv_type != MB_KV_F16;
  const uint64_t ring =
      mb_size_round_up((uint64_t)config->sliding_window + options->prefill_chunk - 1, grouped ? MB_KV_TILE : 1);
  if (count_layers(config, true) > 0 && ring < options->context) return (uint32_t)ring;
  return mb_round_up(options->context, grouped ? MB_KV_GROUP : 1);
}

uint32_t mb_coarse_end(uint32_t i) {
  return i < MB_KV_RECENT + MB_KV_TILE ? MB_KV_TILE : (i - MB_KV_RECENT) / MB_KV_TILE * MB_KV_TILE;
}

/* A chunk writes all its positions before the tile that its last token no longer sees in 8 bits is made coarse: so what
 * the token before the chunk saw in 8 bits is kept, and the chunk. */
uint32_t mb_fine_ring(const mb_session_options *options) {
  const uint32_t ring = mb_round_up(MB_KV_RECENT + MB_KV_TILE + options->prefill_chunk, MB_KV_TILE);
  const uint32_t all = mb_round_up(options->context, MB_KV_GROUP), rest = all > MB_KV_TILE ? all - MB_KV_TILE : 0;
  return ring < rest ? ring : rest;
}

uint32_t mb_convolution_ring(const mb_model_config *config, const mb_session_options *options) {
  return config->convolution_taps ? config->convolution_taps - 1 + options->prefill_chunk : 0;
}

mb_status mb_layout_compute(const mb_model_config *config, const mb_session_options *options, mb_layout *layout) {
  memset(layout, 0, sizeof *layout);
  mb_status status = mb_config_check(config);
  if (status == MB_OK) status = resolve(config, options, &layout->options);
  if (status != MB_OK) return status;
  const mb_kv_type kv_type = layout->options.kv_type;
  layout->stride = mb_round_up(config->head_dim, MB_KV_BLOCK);
  layout->kv_scaled = kv_type != MB_KV_F16;
  layout->keys_int4 = kv_type == MB_KV_INT4;
  layout->values_int4 = kv_type == MB_KV_INT4 || kv_type == MB_KV_K8V4;
  layout->key_bytes = vector_bytes(layout, layout->keys_int4);
  layout->value_bytes = vector_bytes(layout, layout->values_int4);
  layout->full_layers = count_layers(config, false);
  layout->windowed_layers = count_layers(config, true);
  layout->convolution_ring = mb_convolution_ring(config, &layout->options);
  layout->logit_rows = layout->options.all_logits ? layout->options.prefill_chunk : 1 + layout->options.lookahead;
  const uint32_t context = layout->options.context;
  layout->room = mb_round_up(context, layout->kv_scaled ? MB_KV_GROUP : 1);
  layout->ring = mb_ring(config, &layout->options);
  const bool turns = layout->ring < context; /* windowed layers then need no more for a longer context */
  if (layout->keys_int4) {
    layout->fine_ring = mb_fine_ring(&layout->options);
    layout->fine_room = (layout->room < MB_KV_TILE ? layout->room : MB_KV_TILE) + layout->fine_ring;
    layout->room = mb_coarse_end(context - 1) - MB_KV_TILE;
    if (layout->ring > layout->room) layout->ring = layout->room;
  }
  const uint32_t group = config->heads / config->kv_heads, chunk = layout->options.prefill_chunk;
  const uint32_t tokens = group < SHARING_ROWS ? SHARING_ROWS / group : 1;
  layout->thread_rows = group * (tokens < chunk ? tokens : chunk);
  layout->score_rows = (uint32_t)larger(config->heads, (uint64_t)layout->options.threads * layout->thread_rows);
  const uint64_t scales = layout->kv_scaled ? layout->stride / MB_KV_BLOCK * sizeof(uint16_t) : 0;
  const uint32_t growing = turns ? layout->full_layers : layout->full_layers + layout->windowed_layers;
  layout->kv_bytes_per_token = mb_size_multiply(mb_size_multiply(growing, config->kv_heads),
                                                (uint64_t)layout->key_bytes + layout->value_bytes + 2 * scales);
  mb_buffers counted;
  arena area = {0};
  take_scratch(&area, config, layout, &counted);
  const uint64_t before_kv = area.used;
  take_kv_cache(&area, config, layout, &counted);
  layout->kv_bytes = area.used - before_kv;
  layout->total_bytes = area.used;
  if (!mb_size_fits(area.used))
    return mb_fail(MB_ERROR_MEMORY,
                   "a session of %u tokens needs %llu MB: more than this process can address; ask for a shorter one",
                   layout->options.context, (unsigned long long)(area.used >> 20));
  return MB_OK;
}

void mb_layout_place(mb_layout *layout, const mb_model_config *config, uint8_t *area) {
  arena places = {.base = area};
  take_scratch(&places, config, layout, &layout->buffers);
  take_kv_cache(&places, config, layout, &layout->buffers);
}

mb_status mb_kv_bytes(const mb_model_config *config, const mb_session_options *resolved, uint32_t positions,
                      uint64_t *bytes) {
  mb_session_options held = *resolved;
  mb_layout layout = {0};
  held.context = positions;
  const mb_status status = positions > 0 ? mb_layout_compute(config, &held, &layout) : MB_OK;
  *bytes = layout.kv_bytes;
  return status;
}

mb_status mb_memory_estimate(const mb_model_config *config, const mb_session_options *options, mb_memory *memory) {
  mb_layout layout;
  memset(memory, 0, sizeof *memory);
  mb_status status = mb_layout_compute(config, options, &layout);
  if (status != MB_OK) return status;
  memory->kv_bytes_per_token = layout.kv_bytes_per_token;
  memory->kv_bytes = layout.kv_bytes;
  memory->scratch_bytes = mb_size_add(layout.total_bytes - layout.kv_bytes,
                                      mb_size_add(mb_size_multiply(layout.options.threads, THREAD_BYTES),
                                                  mb_size_multiply(config->vocabulary, SAMPLER_BYTES)));
  memory->process_bytes = PROCESS_BYTES;
  return MB_OK;
}

/* Attention of one layer: rotary embedding, scores over the KV cache (kv_cache.h), softmax and the mix of values. */
#include <math.h>
#include <string.h>

#include "engine/config.h"
#include "engine/kv_cache.h"
#include "engine/norm.h"
#include "engine/session.h"

enum {
  INLINE_WORK = 16384,   /* multiply-adds of a decode step's attention below which waking the threads costs more */
  SHARED_WORK = 1 << 16, /* from here on sharing every step evenly is worth two more waits for each other */
  FEW_ITEMS = 4,         /* per thread: fewer do not share evenly */
  PIECE = 256,           /* positions of a share of the scores */
};

typedef struct {
  mb_session *session;
  uint32_t layer;
  uint32_t count;
  uint32_t group; /* query heads of one KV head */
  bool coarse;    /* int4: some of the chunk's tokens see positions in 4 bits */
  size_t scores_stride;
  uint32_t tokens; /* attend_tokens: those of one item */
  uint32_t pieces; /* score_pieces: of the positions */
} attention_job;

/* Where the query heads of a KV head and token stand among all: those that meet the same keys lie together. */
static size_t query_row(const attention_job *job, uint32_t kv_head, uint32_t n) {
  return ((size_t)kv_head * job->count + n) * job->group;
}

static void angles(const mb_session *session, uint32_t count, const float *frequencies, float *cosines, float *sines) {
  const mb_model_config *c = &session->model->weights.config;
  const uint32_t half = mb_rotary_dim(c) / 2;
  const float scale = mb_factor(c->rotary_scale);
  for (uint32_t n = 0; n < count; n++) {
    for (uint32_t i = 0; i < half; i++) {
      /* The angle in float, as the models were trained; its cosine in double, so that every C library agrees. */
      const float angle = (float)(session->position + n) * frequencies[i];
      cosines[n * half + i] = (float)cos((double)angle) * scale;
      sines[n * half + i] = (float)sin((double)angle) * scale;
    }
  }
}

void mb_attention_angles(mb_session *session, uint32_t count) {
  const mb_buffers *b = &session->layout.buffers;
  for (uint32_t i = 0; i < 2; i++)
    if (b->cosines[i]) angles(session, count, session->model->inverse_frequencies[i], b->cosines[i], b->sines[i]);
}

/* A head's first 2 * half values by their angles, all n values by the scale. Hugging Face's layout: element i turns
 * with element i + half. */
static void rotate(float *v, const float *cosines, const float *sines, uint32_t half, uint32_t n, float scale) {
  for (uint32_t i = 0; i < half; i++) {
    const float a = v[i], b = v[i + half];
    v[i] = (a * cosines[i] - b * sines[i]) * scale;
    v[i + half] = (b * cosines[i] + a * sines[i]) * scale;
  }
  for (uint32_t i = 2 * half; i < n; i++) v[i] *= scale;
}

/* The query and key heads of a token: rotated, normed where that comes last, and the queries scaled. */
static void turn_heads(const attention_job *job, uint32_t n, float *queries, float *keys) {
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_layer *layer = &session->model->layers[job->layer];
  const mb_buffers *b = &session->layout.buffers;
  const bool late = (c->flags & MB_MODEL_LATE_QK_NORMS) != 0, rotated = layer->rope != MB_NO_ROPE;
  const uint32_t dim = c->head_dim, half = rotated ? mb_rotary_dim(c) / 2 : 0;
  const float query_scale = c->query_scale != 0 ? c->query_scale : 1.0f / sqrtf((float)dim);
  const float *cosines = rotated ? b->cosines[layer->rope] + (size_t)n * half : NULL;
  const float *sines = rotated ? b->sines[layer->rope] + (size_t)n * half : NULL;
  for (uint32_t h = 0; h < c->heads; h++)
    rotate(queries + (size_t)h * dim, cosines, sines, half, dim, late ? 1.0f : query_scale);
  for (uint32_t h = 0; h < c->kv_heads; h++) rotate(keys + (size_t)h * dim, cosines, sines, half, dim, 1.0f);
  if (!late) return;
  if (layer->query_norm)
    mb_normalise_heads(session->model->kernels, queries, layer->query_norm, c->heads, dim, c->norm_epsilon);
  if (layer->key_norm)
    mb_normalise_heads(session->model->kernels, keys, layer->key_norm, c->kv_heads, dim, c->norm_epsilon);
  for (uint32_t i = 0; i < c->heads * dim; i++) queries[i] *= query_scale;
}

/* Query heads, padded to whole blocks, as codes from a row on; with int4 in both forms where both are met. The heads
 * are lost. */
static void code_queries(const attention_job *job, float *heads, uint32_t count, size_t row) {
  const mb_layout *layout = &job->session->layout;
  const mb_buffers *b = &layout->buffers;
  const mb_kernels *kernels = job->session->model->kernels;
  const uint32_t head_blocks = layout->stride / MB_KV_BLOCK, blocks = count * head_blocks;
  const size_t codes = row * layout->stride, block = row * head_blocks;
  kernels->kv_codes_8(heads, blocks, b->query_codes + codes, b->query_scales + block, b->query_sums + block);
  if (!job->coarse) return;
  kernels->turn(heads, blocks);
  kernels->kv_codes_8(heads, blocks, b->turned_codes + codes, b->turned_scales + block, b->turned_sums + block);
}

/* The query heads of a KV head and token in the form that meets the cache's keys. They may be lost. */
static void store_queries(const attention_job *job, float *q, size_t row) {
  const mb_layout *layout = &job->session->layout;
  const uint32_t dim = job->session->model->weights.config.head_dim, stride = layout->stride;
  if (layout->kv_scaled && dim == stride) {
    code_queries(job, q, job->group, row);
    return;
  }
  for (uint32_t h = 0; h < job->group; h++, q += dim, row++) {
    float padded[MB_MOST_HEAD_DIM], *head = layout->kv_scaled ? padded : layout->buffers.query_padded + row * stride;
    memcpy(head, q, dim * sizeof *q);
    if (!layout->kv_scaled) continue;
    memset(padded + dim, 0, (stride - dim) * sizeof *q);
    code_queries(job, padded, 1, row);
  }
}

static void prepare_tokens(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_buffers *b = &session->layout.buffers;
  const uint32_t dim = c->head_dim;
  for (uint32_t n = first; n < last; n++) {
    turn_heads(job, n, b->query + (size_t)n * c->heads * dim, b->key + (size_t)n * c->kv_heads * dim);
    for (uint32_t h = 0; h < c->kv_heads; h++)
      store_queries(job, b->query + ((size_t)n * c->heads + h * job->group) * dim, query_row(job, h, n));
    for (uint32_t h = 0; h < c->kv_heads; h++) {
      const size_t vector = ((size_t)n * c->kv_heads + h) * dim;
      mb_kv_store(session, job->layer, h, session->position + n, b->key + vector, b->value + vector);
    }
  }
}

/* ---- the queries that work on the same keys ---- */

/* The query heads of one KV head, of neighbouring tokens. Their scores are those of the positions base..end-1; each row
 * sees some of them. base is a multiple of MB_KV_TILE, so that tiles are the same however tokens are put together. */
typedef struct {
  uint32_t kv_head;
  uint32_t first, last; /* tokens of the chunk */
  uint32_t base, end;   /* positions */
  uint32_t coarse_end;  /* int4: mb_coarse_end, the same of all of these tokens */
  float *scores;        /* [rows][job->scores_stride] */
  float *mixed;         /* [rows][stride] */
  float *turned_mixed;  /* [rows][stride]: what comes of values of 4 bits; NULL where there are none */
  float *sums;          /* [rows]: of the softmax terms */
} queries;

static uint32_t rows_of(const attention_job *job, const queries *q) { return (q->last - q->first) * job->group; }

/* The first position that a token of the chunk sees. */
static uint32_t first_seen(const attention_job *job, uint32_t n) {
  const uint32_t window = job->session->model->layers[job->layer].window, seen = job->session->position + n + 1;
  return window && seen > window ? seen - window : 0;
}

static queries queries_of(const attention_job *job, uint32_t kv_head, uint32_t first, uint32_t last) {
  const uint32_t seen = first_seen(job, first);
  return (queries){.kv_head = kv_head,
                   .first = first,
                   .last = last,
                   .base = seen / MB_KV_TILE * MB_KV_TILE,
                   .end = job->session->position + last,
                   .coarse_end = mb_coarse_end(job->session->position + first)};
}

/* Gives `q` the rows of the scratch buffers from `row` on. */
static void take_rows(const attention_job *job, queries *q, size_t row) {
  const mb_buffers *b = &job->session->layout.buffers;
  q->scores = b->scores + row * job->scores_stride;
  q->mixed = b->mixed + row * job->session->layout.stride;
  const mb_layout *layout = &job->session->layout;
  const bool int4 = layout->values_int4 && (!layout->keys_int4 || q->coarse_end > MB_KV_TILE);
  q->turned_mixed = int4 ? b->turned_mixed + row * layout->stride : NULL;
  q->sums = b->term_sums + row;
}

/* Scores of the positions from..to-1; `from` begins a group. */
static void score(const attention_job *job, const queries *q, uint32_t from, uint32_t to) {
  const mb_session *session = job->session;
  const mb_kernels *kernels = session->model->kernels;
  const mb_buffers *b = &session->layout.buffers;
  const size_t stride = session->layout.stride, row = query_row(job, q->kv_head, q->first),
               blocks = stride / MB_KV_BLOCK;
  for (uint32_t p = from; p < to;) {
    const mb_kv_piece piece = mb_kv_piece_at(session, job->layer, p, to, q->coarse_end);
    const bool int4 = session->layout.keys_int4 && !piece.fine;
    float *scores = q->scores + (p - q->base);
    if (session->layout.kv_scaled) {
      const mb_queries some = {.codes = (int4 ? b->turned_codes : b->query_codes) + row * stride,
                               .scales = (int4 ? b->turned_scales : b->query_scales) + row * blocks,
                               .sums = (int4 ? b->turned_sums : b->query_sums) + row * blocks,
                               .rows = rows_of(job, q)};
      const mb_kv_groups keys = mb_kv_key_groups(session, job->layer, q->kv_head, piece);
      (int4 ? kernels->scores_int4 : kernels->scores_int8)(&some, &keys, scores, job->scores_stride);
    } else {
      const mb_queries some = {.values = b->query_padded + row * stride, .rows = rows_of(job, q)};
      const mb_kv_head keys = mb_kv_keys(session, job->layer, q->kv_head, piece);
      kernels->scores_f16(&some, &keys, scores, job->scores_stride);
    }
    p += piece.positions;
  }
}

/* Scores to softmax terms; 0 for the positions that a row does not see, up to the end of their group. */
static void soften(const attention_job *job, const queries *q, uint32_t first_row, uint32_t last_row) {
  const uint32_t end = mb_round_up(q->end, MB_KV_GROUP);
  for (uint32_t r = first_row; r < last_row; r++) {
    const uint32_t n = q->first + r / job->group, from = first_seen(job, n), to = job->session->position + n + 1;
    float *scores = q->scores + r * job->scores_stride;
    const float cap = job->session->model->weights.config.score_cap;
    if (cap != 0) mb_soft_cap(scores + (from - q->base), to - from, cap);
    q->sums[r] = job->session->model->kernels->softmax_terms(scores + (from - q->base), to - from);
    memset(scores, 0, (from - q->base) * sizeof *scores);
    memset(scores + (to - q->base), 0, (end - to) * sizeof *scores);
  }
}

/* Adds the values of the positions from..to-1 to `rows` rows from `row` on, in the dimensions of some blocks. */
static void mix_positions(const attention_job *job, const queries *q, uint32_t row, uint32_t rows, uint32_t from,
                          uint32_t to, uint32_t first_block, uint32_t last_block) {
  const mb_session *session = job->session;
  const mb_kernels *kernels = session->model->kernels;
  for (uint32_t p = from; p < to;) {
    const mb_kv_piece piece = mb_kv_piece_at(session, job->layer, p, to, q->coarse_end);
    const bool int4 = session->layout.values_int4 && !piece.fine;
    float *out = (int4 ? q->turned_mixed : q->mixed) + (size_t)row * session->layout.stride;
    const mb_terms terms = {.terms = q->scores + row * job->scores_stride + (p - q->base),
                            .stride = job->scores_stride,
                            .sums = q->sums + row,
                            .rows = rows};
    if (session->layout.kv_scaled) {
      const mb_kv_groups values = mb_kv_value_groups(session, job->layer, q->kv_head, piece);
      (int4 ? kernels->mix_int4 : kernels->mix_int8)(&terms, &values, first_block, last_block, out);
    } else {
      const mb_kv_head values = mb_kv_values(session, job->layer, q->kv_head, piece);
      kernels->mix_f16(&terms, &values, first_block, last_block, out);
    }
    p += piece.positions;
  }
}

/* fp16: a row leaves out what it does not see (it may be infinite), and adds up what it sees in order. So the
 * rows share the positions that all of them see; those before and behind are a token's own. */
static void mix_in_order(const attention_job *job, const queries *q, uint32_t first_block, uint32_t last_block) {
  const uint32_t position = job->session->position, group = job->group;
  const uint32_t from = first_seen(job, q->last - 1), to = position + q->first + 1;
  for (int part = 0; part < 3; part++) {
    if (part == 1 && from < to) mix_positions(job, q, 0, rows_of(job, q), from, to, first_block, last_block);
    for (uint32_t n = q->first; n < q->last && part != 1; n++) {
      const uint32_t seen = first_seen(job, n), end = position + n + 1;
      const uint32_t begin = part == 0 ? seen : from < to ? to : from > seen ? from : seen;
      const uint32_t stop = part == 2 ? end : from < end ? from : end;
      if (begin < stop) mix_positions(job, q, (n - q->first) * group, group, begin, stop, first_block, last_block);
    }
  }
}

/* Dimensions of some blocks of what the rows see. */
static void mix(const attention_job *job, const queries *q, uint32_t first_block, uint32_t last_block) {
  const mb_session *session = job->session;
  const mb_model_config *c = &session->model->weights.config;
  const uint32_t stride = session->layout.stride, rows = rows_of(job, q), from = first_block * MB_KV_BLOCK;
  const uint32_t to = last_block * MB_KV_BLOCK < c->head_dim ? last_block * MB_KV_BLOCK : c->head_dim;
  const size_t bytes = (last_block - first_block) * MB_KV_BLOCK * sizeof *q->mixed;
  for (uint32_t r = 0; r < rows; r++) {
    memset(q->mixed + (size_t)r * stride + from, 0, bytes);
    if (q->turned_mixed) memset(q->turned_mixed + (size_t)r * stride + from, 0, bytes);
  }
  if (session->layout.kv_scaled)
    mix_positions(job, q, 0, rows, q->base, q->end, first_block, last_block);
  else
    mix_in_order(job, q, first_block, last_block);
  const size_t padded = mb_round_up(c->heads * c->head_dim, MB_COLUMN_PADDING);
  for (uint32_t r = 0; r < rows; r++) {
    const uint32_t head = q->kv_head * job->group + r % job->group;
    float *out = session->layout.buffers.attention + (q->first + r / job->group) * padded + (size_t)head * c->head_dim;
    float *mixed = q->mixed + (size_t)r * stride;
    const float inverse = 1.0f / q->sums[r];
    if (q->turned_mixed) {
      float *turned = q->turned_mixed + (size_t)r * stride;
      session->model->kernels->turn(turned + from, last_block - first_block);
      for (uint32_t i = from; i < to; i++) mixed[i] += turned[i];
    }
    for (uint32_t i = from; i < to; i++) out[i] = mixed[i] * inverse;
  }
}

/* ---- how the threads share the work ---- */

/* int4. An item: a KV head. What the chunk's last token no longer sees in 8 bits. */
static void make_coarse(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const uint32_t position = job->session->position;
  const uint32_t from = position ? mb_coarse_end(position - 1) : MB_KV_TILE;
  for (uint32_t h = first; h < last; h++)
    mb_kv_make_coarse(job->session, job->layer, h, from, mb_coarse_end(position + job->count - 1));
}

/* How many of the tokens first..last-1 see the same positions in 4 bits as the first of them. */
static uint32_t alike(const attention_job *job, uint32_t first, uint32_t last) {
  const uint32_t position = job->session->position, coarse_end = mb_coarse_end(position + first);
  uint32_t n = first;
  while (n < last && (!job->session->layout.keys_int4 || mb_coarse_end(position + n) == coarse_end)) n++;
  return n - first;
}

/* An item: some of the chunk's tokens, all query heads of one KV head. */
static void attend_tokens(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  const attention_job *job = context;
  const mb_layout *layout = &job->session->layout;
  const uint32_t shares = (job->count + job->tokens - 1) / job->tokens; /* one after the other over the same keys */
  for (uint32_t item = first; item < last; item++) {
    const uint32_t begin = item % shares * job->tokens, left = job->count - begin;
    const uint32_t end = begin + (left < job->tokens ? left : job->tokens);
    for (uint32_t n = begin; n < end;) {
      const uint32_t some = alike(job, n, end);
      queries q = queries_of(job, item / shares, n, n + some);
      take_rows(job, &q, (size_t)thread * layout->thread_rows);
      score(job, &q, q.base, q.end);
      soften(job, &q, 0, rows_of(job, &q));
      mix(job, &q, 0, layout->stride / MB_KV_BLOCK);
      n += some;
    }
  }
}

/* Few tokens far from the beginning: every step is shared by itself. The scores by KV head and positions, */
static void score_pieces(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  for (uint32_t item = first; item < last; item++) {
    queries q = queries_of(job, item / job->pieces, 0, job->count);
    take_rows(job, &q, query_row(job, q.kv_head, 0));
    const uint32_t from = q.base + item % job->pieces * PIECE, left = q.end > from ? q.end - from : 0;
    score(job, &q, from, from + (left < PIECE ? left : PIECE));
  }
}

/* the softmax by rows, */
static void soften_rows(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const uint32_t rows = job->group * job->count;
  for (uint32_t item = first; item < last; item++) {
    queries q = queries_of(job, item / rows, 0, job->count);
    take_rows(job, &q, query_row(job, q.kv_head, 0));
    soften(job, &q, item % rows, item % rows + 1);
  }
}

/* and the values by KV head and dimensions. */
static void mix_blocks(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const attention_job *job = context;
  const uint32_t blocks = job->session->layout.stride / MB_KV_BLOCK;
  for (uint32_t item = first; item < last; item++) {
    queries q = queries_of(job, item / blocks, 0, job->count);
    take_rows(job, &q, query_row(job, q.kv_head, 0));
    mix(job, &q, item % blocks, item % blocks + 1);
  }
}

static void attend_in_steps(attention_job *job) {
  const mb_session *session = job->session;
  const uint32_t kv_heads = session->model->weights.config.kv_heads;
  const queries q = queries_of(job, 0, 0, job->count);
  job->pieces = (q.end - q.base + PIECE - 1) / PIECE;
  mb_pool_run(session->pool, score_pieces, job, kv_heads * job->pieces, 1);
  mb_pool_run(session->pool, soften_rows, job, kv_heads * job->group * job->count, 1);
  mb_pool_run(session->pool, mix_blocks, job, kv_heads * (session->layout.stride / MB_KV_BLOCK), 1);
}

void mb_attention(mb_session *session, uint32_t layer, uint32_t count) {
  const mb_model_config *c = &session->model->weights.config;
  const mb_layout *layout = &session->layout;
  const uint32_t group = c->heads / c->kv_heads, threads = mb_pool_threads(session->pool);
  const uint32_t coarse_end = mb_coarse_end(session->position + count - 1); /* of the last token */
  attention_job job = {.session = session,
                       .layer = layer,
                       .count = count,
                       .group = group,
                       .coarse = layout->keys_int4 && coarse_end > MB_KV_TILE,
                       .scores_stride = mb_round_up(layout->options.context, MB_KV_TILE)};
  mb_pool_run(session->pool, prepare_tokens, &job, count, count == 1 ? 1 : 2);
  const uint64_t work = (uint64_t)count * c->heads * c->head_dim * (session->position + count);
  if (layout->keys_int4 && coarse_end > (session->position ? mb_coarse_end(session->position - 1) : MB_KV_TILE))
    mb_pool_run(session->pool, make_coarse, &job, c->kv_heads, 1);
  job.tokens = layout->thread_rows / group;
  const uint32_t items = (count + job.tokens - 1) / job.tokens * c->kv_heads;
  if (threads > 1 && items < FEW_ITEMS * threads && count * c->heads <= layout->score_rows && work >= SHARED_WORK &&
      alike(&job, 0, count) == count)
    attend_in_steps(&job);
  else
    mb_pool_run(session->pool, attend_tokens, &job, items, work < INLINE_WORK ? items : 1);
}

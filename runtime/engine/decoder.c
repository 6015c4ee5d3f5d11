/* The decoder, top to bottom: embedding, layers, final norm, output head. */
#include "base/error.h"
#include "engine/config.h"
#include "engine/norm.h"
#include "engine/session.h"
#include "kernels/products.h"

/* out = W x for every product; they share the input values[count][padded columns]. */
static void project(mb_session *session, float *values, uint32_t count, bool round_values, const mb_product *products,
                    uint32_t product_count) {
  const mb_buffers *b = &session->layout.buffers;
  const mb_parallel parallel = mb_pool_parallel(session->pool);
  const mb_product_scratch scratch = {b->codes, b->scales, b->sums, b->panel};
  mb_products(session->model->kernels, &parallel, &scratch, values, count, round_values, products, product_count);
}

static void add(float *x, const float *y, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) x[i] += y[i];
}

static void multiply(float *x, float factor, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) x[i] *= factor;
}

/* Query and key heads, before they are rotated. */
static void norm_heads(const mb_kernels *kernels, const mb_model_config *c, const mb_layer *layer, float *q, float *k) {
  if (c->flags & MB_MODEL_LATE_QK_NORMS) return;
  const bool wide = (c->flags & MB_MODEL_WIDE_QK_NORMS) != 0;
  const uint32_t heads = wide ? 1 : c->heads, kv_heads = wide ? 1 : c->kv_heads;
  if (layer->query_norm)
    mb_normalise_heads(kernels, q, layer->query_norm, heads, c->heads / heads * c->head_dim, c->norm_epsilon);
  if (layer->key_norm)
    mb_normalise_heads(kernels, k, layer->key_norm, kv_heads, c->kv_heads / kv_heads * c->head_dim, c->norm_epsilon);
}

/* Adds what attention or the MLP gives (`given`, on whose place the next input comes) to the stream. */
static void join(const mb_kernels *kernels, const mb_model_config *c, const float *bias, const float *output_norm,
                 const float *next_norm, float *stream, float *given) {
  if (bias) add(given, bias, c->hidden);
  if (output_norm) mb_normalise(kernels, given, output_norm, c->hidden, c->norm_epsilon, given);
  if (c->residual_scale != 0) multiply(given, c->residual_scale, c->hidden);
  add(stream, given, c->hidden);
  mb_normalise(kernels, stream, next_norm, c->hidden, c->norm_epsilon, given);
}

/* What one token does between two projections. */
typedef enum {
  BEFORE_ATTENTION,
  AFTER_ATTENTION,
  CONVOLUTION_KEEP,
  CONVOLUTION_MIX,
  BEFORE_MLP,
  ACTIVATE,
  AFTER_MLP
} token_work;

typedef struct {
  mb_session *session;
  const mb_layer *layer;
  token_work work;
  const float *norm;
} token_job;

static uint32_t layer_number(const token_job *job) { return (uint32_t)(job->layer - job->session->model->layers); }

static void token_step(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const token_job *job = context;
  const mb_model_config *c = &job->session->model->weights.config;
  const mb_kernels *kernels = job->session->model->kernels;
  const mb_buffers *b = &job->session->layout.buffers;
  const mb_layer *layer = job->layer;
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const size_t hidden_padded = mb_round_up(c->hidden, MB_COLUMN_PADDING);
  const size_t attention_padded = mb_round_up(attention, MB_COLUMN_PADDING);
  const size_t feed_padded = mb_round_up(c->feed_forward, MB_COLUMN_PADDING);
  for (uint32_t n = first; n < last; n++) {
    float *hidden = b->hidden + n * hidden_padded, *normed = b->normed + n * hidden_padded;
    float *mixed = b->attention + n * attention_padded;
    float *gate = b->gate + n * feed_padded, *up = b->up + n * feed_padded;
    switch (job->work) {
      case BEFORE_ATTENTION:
        if (layer->query.bias) add(b->query + (size_t)n * attention, layer->query.bias, attention);
        if (layer->key.bias) add(b->key + (size_t)n * kv, layer->key.bias, kv);
        if (layer->value.bias) add(b->value + (size_t)n * kv, layer->value.bias, kv);
        norm_heads(kernels, c, layer, b->query + (size_t)n * attention, b->key + (size_t)n * kv);
        break;
      case AFTER_ATTENTION:
        if (layer->attention_sub_norm)
          mb_normalise(kernels, mixed, layer->attention_sub_norm, attention, c->norm_epsilon, mixed);
        break;
      case CONVOLUTION_KEEP:
        if (layer->convolution.bias) add(b->gates + n * 3 * (size_t)c->hidden, layer->convolution.bias, 3 * c->hidden);
        mb_convolution_keep(job->session, layer_number(job), n, n + 1);
        break;
      case CONVOLUTION_MIX:
        mb_convolution_mix(job->session, layer_number(job), n, n + 1);
        break;
      case BEFORE_MLP:
        join(kernels, c, layer->output.bias, layer->output_norm, job->norm, hidden, normed);
        break;
      case ACTIVATE:
        if (layer->gate.bias) add(gate, layer->gate.bias, c->feed_forward);
        if (layer->up.bias) add(up, layer->up.bias, c->feed_forward);
        if (c->activation == MB_ACTIVATION_SILU) {
          kernels->silu_multiply(gate, up, c->feed_forward);
        } else if (c->activation == MB_ACTIVATION_GELU_TANH) {
          kernels->gelu_multiply(gate, up, c->feed_forward);
        } else {
          for (uint32_t i = 0; i < c->feed_forward; i++) {
            const float positive = gate[i] < 0 ? 0 : gate[i]; /* NaN stays NaN */
            gate[i] = positive * positive * up[i];
          }
        }
        if (layer->mlp_sub_norm)
          mb_normalise(kernels, gate, layer->mlp_sub_norm, c->feed_forward, c->norm_epsilon, gate);
        break;
      case AFTER_MLP:
        join(kernels, c, layer->down.bias, layer->mlp_output_norm, job->norm, hidden, normed);
        break;
    }
  }
}

static void each_token(mb_session *session, const mb_layer *layer, token_work work, const float *norm, uint32_t count) {
  token_job job = {session, layer, work, norm};
  mb_pool_run(session->pool, token_step, &job, count, count == 1 ? 1 : 2);
}

static void look(const mb_session *session, mb_step step, uint32_t layer, uint32_t count) {
  if (session->check) mb_check_step(session, session->check, step, layer, count);
}

/* A layer's first half, from its normed input to what it adds to the stream, both in b->normed. */
static void attend(mb_session *session, uint32_t l, uint32_t count) {
  const mb_model_config *c = &session->model->weights.config;
  const mb_layer *layer = &session->model->layers[l];
  const mb_buffers *b = &session->layout.buffers;
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const bool bitnet = (c->flags & MB_MODEL_INT8_ACTIVATIONS) != 0;
  const mb_product inputs[] = {{.weight = &layer->query.weight, .out = b->query, .stride = attention},
                               {.weight = &layer->key.weight, .out = b->key, .stride = kv},
                               {.weight = &layer->value.weight, .out = b->value, .stride = kv}};
  project(session, b->normed, count, bitnet, inputs, 3);
  look(session, MB_STEP_HEADS, l, count);
  each_token(session, layer, BEFORE_ATTENTION, NULL, count);
  look(session, MB_STEP_HEADS_DONE, l, count);
  mb_attention(session, l, count);
  look(session, MB_STEP_MIX, l, count);
  if (layer->attention_sub_norm) {
    each_token(session, layer, AFTER_ATTENTION, NULL, count);
    look(session, MB_STEP_MIX_NORM, l, count);
  }
  const mb_product mixed = {
      .weight = &layer->output.weight, .out = b->normed, .stride = mb_round_up(c->hidden, MB_COLUMN_PADDING)};
  project(session, b->attention, count, bitnet, &mixed, 1);
}

/* The same of a layer with a convolution. */
static void convolve(mb_session *session, uint32_t l, uint32_t count) {
  const mb_model_config *c = &session->model->weights.config;
  const mb_layer *layer = &session->model->layers[l];
  const mb_buffers *b = &session->layout.buffers;
  const bool bitnet = (c->flags & MB_MODEL_INT8_ACTIVATIONS) != 0;
  const mb_product input = {.weight = &layer->convolution.weight, .out = b->gates, .stride = 3 * (size_t)c->hidden};
  project(session, b->normed, count, bitnet, &input, 1);
  look(session, MB_STEP_GATES, l, count);
  each_token(session, layer, CONVOLUTION_KEEP, NULL, count);
  each_token(session, layer, CONVOLUTION_MIX, NULL, count);
  look(session, MB_STEP_CONVOLVED, l, count);
  const mb_product output = {
      .weight = &layer->output.weight, .out = b->normed, .stride = mb_round_up(c->hidden, MB_COLUMN_PADDING)};
  project(session, b->convolved, count, bitnet, &output, 1);
}

mb_status mb_decoder_forward(mb_session *session, const int32_t *tokens, uint32_t count) {
  const mb_model *model = session->model;
  const mb_model_config *c = &model->weights.config;
  const mb_buffers *b = &session->layout.buffers;
  const size_t hidden_padded = mb_round_up(c->hidden, MB_COLUMN_PADDING);
  const size_t feed_padded = mb_round_up(c->feed_forward, MB_COLUMN_PADDING);
  const bool bitnet = (c->flags & MB_MODEL_INT8_ACTIVATIONS) != 0;
  if (session->written < session->position + count) session->written = session->position + count;
  for (uint32_t n = 0; n < count; n++) {
    float *hidden = b->hidden + n * hidden_padded;
    mb_decode_row(&model->embedding, (uint32_t)tokens[n], hidden);
    if (c->embedding_scale != 0) multiply(hidden, c->embedding_scale, c->hidden);
    mb_normalise(model->kernels, hidden, model->layers[0].attention_norm, c->hidden, c->norm_epsilon,
                 b->normed + n * hidden_padded);
  }
  look(session, MB_STEP_EMBEDDING, 0, count);
  mb_attention_angles(session, count);
  if (model->mapping) mb_layer_mapping_begin(model->mapping);
  for (uint32_t l = 0; l < c->layers; l++) {
    if (atomic_exchange_explicit(&session->cancelled, false, memory_order_relaxed))
      return mb_fail(MB_ERROR_CANCELLED, "cancelled");
    if (model->mapping) mb_layer_mapping_enter(model->mapping, l);
    const mb_layer *layer = &model->layers[l];
    if (layer->taps) {
      convolve(session, l, count);
    } else {
      attend(session, l, count);
    }
    look(session, MB_STEP_OUTPUT, l, count);
    each_token(session, layer, BEFORE_MLP, layer->mlp_norm, count);
    look(session, MB_STEP_MIDDLE, l, count);
    const mb_product wide[] = {{.weight = &layer->gate.weight, .out = b->gate, .stride = feed_padded},
                               {.weight = &layer->up.weight, .out = b->up, .stride = feed_padded}};
    project(session, b->normed, count, bitnet, wide, 2);
    look(session, MB_STEP_WIDE, l, count);
    each_token(session, layer, ACTIVATE, NULL, count);
    look(session, MB_STEP_ACTIVATE, l, count);
    const mb_product down = {.weight = &layer->down.weight, .out = b->normed, .stride = hidden_padded};
    project(session, b->gate, count, bitnet, &down, 1);
    look(session, MB_STEP_DOWN, l, count);
    const float *next_norm = l + 1 < c->layers ? model->layers[l + 1].attention_norm : model->norm;
    each_token(session, layer, AFTER_MLP, next_norm, count);
    look(session, MB_STEP_END, l, count);
    if (model->mapping) mb_layer_mapping_leave(model->mapping, l);
  }
  return MB_OK;
}

void mb_decoder_logits(mb_session *session, uint32_t first, uint32_t count) {
  const mb_model_config *c = &session->model->weights.config;
  const mb_buffers *b = &session->layout.buffers;
  const size_t hidden_padded = mb_round_up(c->hidden, MB_COLUMN_PADDING);
  const mb_layer_mapping *mapping = session->model->mapping;
  const uint32_t step = mapping ? mb_layer_mapping_head_rows(mapping) : c->vocabulary;
  for (uint32_t row = 0; row < c->vocabulary; row += step) {
    const uint32_t rest = c->vocabulary - row;
    const mb_product share = {.weight = &session->model->head,
                              .out = b->logits,
                              .stride = c->vocabulary,
                              .first_row = row,
                              .rows = rest < step ? rest : step};
    if (mapping) mb_layer_mapping_enter_head(mapping, row);
    project(session, b->normed + first * hidden_padded, count - first, false, &share, 1);
    if (mapping) mb_layer_mapping_leave_head(mapping, row);
  }
  if (session->check) mb_check_logits(session, session->check, count - first);
  if (c->logit_cap != 0)
    for (uint32_t n = 0; n < count - first; n++)
      mb_soft_cap(b->logits + n * (size_t)c->vocabulary, c->vocabulary, c->logit_cap);
}

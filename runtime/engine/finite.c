#include "engine/finite.h"

#include <math.h>
#include <stdio.h>

#include "engine/config.h"
#include "engine/session.h"

enum { MODEL = UINT32_MAX /* in place of a layer's number: a tensor of no layer */ };

/* No model computes with such values. Who gave the first of them is to blame for an overflow that follows. */
#define LARGE 1e12f

/* What a result is to those that follow. */
typedef enum {
  PRODUCT, /* of a matrix and the input */
  INPUT,   /* the next input */
  TABLE,   /* made of nothing before */
} result_kind;

static void name(mb_checked *out, uint32_t layer, const char *tensor, float reach) {
  if (layer == MODEL) {
    snprintf(out->tensor, sizeof out->tensor, "%s", tensor);
  } else {
    snprintf(out->tensor, sizeof out->tensor, "layers.%u.%s", layer, tensor);
  }
  out->reach = reach;
}

/* The largest magnitude of values[count][stride], of which n are looked at; infinity where one is not finite. */
static float reach_of(const float *values, size_t stride, uint32_t n, uint32_t count) {
  float reach = 0;
  for (uint32_t t = 0; t < count; t++)
    for (uint32_t i = 0; i < n; i++) {
      const float magnitude = fabsf(values[t * stride + i]);
      if (!isfinite(magnitude)) return INFINITY;
      reach = magnitude > reach ? magnitude : reach;
    }
  return reach;
}

/* tensor: NULL for what all products since the last input have part in. */
static void look(mb_finite_check *check, result_kind kind, uint32_t layer, const char *tensor, const float *values,
                 size_t stride, uint32_t n, uint32_t count) {
  if (check->suspect.tensor[0]) return;
  const float reach = reach_of(values, stride, n, count);
  const bool finite = isfinite(reach);
  if (kind == TABLE) {
    if (!finite) name(&check->suspect, layer, tensor, INFINITY);
    return;
  }
  if (!finite && check->large.tensor[0]) {
    check->suspect = check->large;
  } else if (!finite && !tensor) {
    check->suspect = check->product;
  } else if (!finite && !check->input.tensor[0]) {
    name(&check->suspect, layer, tensor, INFINITY);
  } else if (!finite) {
    name(&check->suspect, layer, tensor, check->input.reach);
    check->giver = check->input;
  }
  if (!finite) return;
  mb_checked result = check->product;
  if (tensor) name(&result, layer, tensor, reach);
  result.reach = reach;
  if (reach > LARGE && !check->large.tensor[0]) check->large = result;
  if (kind == INPUT) {
    check->input = result;
    check->product = (mb_checked){0};
  } else if (!check->product.tensor[0] || reach > check->product.reach) {
    check->product = result;
  }
}

static void look_at_heads(const mb_session *s, mb_finite_check *check, uint32_t l, uint32_t count, bool done) {
  const mb_model_config *c = &s->model->weights.config;
  const mb_layer *layer = &s->model->layers[l];
  const mb_buffers *b = &s->layout.buffers;
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const char *query = "attention.query.weight", *key = "attention.key.weight", *value = "attention.value.weight";
  if (done && layer->query.bias) query = "attention.query.bias";
  if (done && layer->key.bias) key = "attention.key.bias";
  if (done && layer->value.bias) value = "attention.value.bias";
  const bool late = (c->flags & MB_MODEL_LATE_QK_NORMS) != 0;
  if (done && layer->query_norm && !late) query = "attention.query.norm.weight";
  if (done && layer->key_norm && !late) key = "attention.key.norm.weight";
  if (done) check->product = (mb_checked){0};
  look(check, PRODUCT, l, query, b->query, attention, attention, count);
  look(check, PRODUCT, l, key, b->key, kv, kv, count);
  look(check, PRODUCT, l, value, b->value, kv, kv, count);
}

void mb_check_step(const mb_session *s, mb_finite_check *check, mb_step step, uint32_t l, uint32_t count) {
  const mb_model_config *c = &s->model->weights.config;
  const mb_buffers *b = &s->layout.buffers;
  const uint32_t attention = c->heads * c->head_dim, hidden = c->hidden, wide = c->feed_forward;
  const size_t hidden_padded = mb_round_up(hidden, MB_COLUMN_PADDING);
  const size_t attention_padded = mb_round_up(attention, MB_COLUMN_PADDING);
  const size_t wide_padded = mb_round_up(wide, MB_COLUMN_PADDING);
  const char *output = s->model->layers[l].taps ? "conv.output.weight" : "attention.output.weight";
  const uint32_t half = mb_rotary_dim(c) / 2, rope = s->model->layers[l].rope;
  switch (step) {
    case MB_STEP_EMBEDDING:
      look(check, INPUT, MODEL, "embedding.weight", b->hidden, hidden_padded, hidden, count);
      look(check, INPUT, 0, "attention.norm.weight", b->normed, hidden_padded, hidden, count);
      break;
    case MB_STEP_HEADS:
    case MB_STEP_HEADS_DONE:
      look_at_heads(s, check, l, count, step == MB_STEP_HEADS_DONE);
      break;
    case MB_STEP_MIX:
      if (rope != MB_NO_ROPE)
        look(check, TABLE, MODEL, rope == 0 ? "rope.inverse_frequencies" : "rope.window.inverse_frequencies",
             b->cosines[rope], half, half, count);
      look(check, INPUT, l, NULL, b->attention, attention_padded, attention, count);
      break;
    case MB_STEP_MIX_NORM:
      look(check, INPUT, l, "attention.sub_norm.weight", b->attention, attention_padded, attention, count);
      break;
    case MB_STEP_GATES:
      look(check, PRODUCT, l, "conv.input.weight", b->gates, 3 * (size_t)hidden, 3 * hidden, count);
      break;
    case MB_STEP_CONVOLVED:
      look(check, TABLE, l, "conv.taps.weight", s->model->layers[l].taps, 0, c->convolution_taps * hidden, 1);
      look(check, INPUT, l, NULL, b->convolved, hidden_padded, hidden, count);
      break;
    case MB_STEP_OUTPUT:
      look(check, PRODUCT, l, output, b->normed, hidden_padded, hidden, count);
      break;
    case MB_STEP_MIDDLE:
      look(check, INPUT, l, output, b->hidden, hidden_padded, hidden, count);
      look(check, INPUT, l, "mlp.norm.weight", b->normed, hidden_padded, hidden, count);
      break;
    case MB_STEP_WIDE:
      look(check, PRODUCT, l, "mlp.gate.weight", b->gate, wide_padded, wide, count);
      look(check, PRODUCT, l, "mlp.up.weight", b->up, wide_padded, wide, count);
      break;
    case MB_STEP_ACTIVATE:
      look(check, INPUT, l, NULL, b->gate, wide_padded, wide, count);
      break;
    case MB_STEP_DOWN:
      look(check, PRODUCT, l, "mlp.down.weight", b->normed, hidden_padded, hidden, count);
      break;
    case MB_STEP_END:
      look(check, INPUT, l, "mlp.down.weight", b->hidden, hidden_padded, hidden, count);
      if (l + 1 < c->layers) {
        look(check, INPUT, l + 1, "attention.norm.weight", b->normed, hidden_padded, hidden, count);
      } else {
        look(check, INPUT, MODEL, "norm.weight", b->normed, hidden_padded, hidden, count);
      }
      break;
  }
}

void mb_check_logits(const mb_session *s, mb_finite_check *check, uint32_t count) {
  const uint32_t vocabulary = s->model->weights.config.vocabulary;
  look(check, PRODUCT, MODEL, s->model->tied ? "embedding.weight" : "output.weight", s->layout.buffers.logits,
       vocabulary, vocabulary, count);
}

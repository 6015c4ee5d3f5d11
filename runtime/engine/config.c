#include "engine/config.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

typedef struct {
  const char *name;
  uint32_t value, most;
} size;

static mb_status check_sizes(const mb_model_config *c) {
  const size sizes[] = {
      {"vocabulary", c->vocabulary, MB_MOST_VOCABULARY},
      {"hidden", c->hidden, MB_MOST_HIDDEN},
      {"layers", c->layers, MB_MOST_LAYERS},
      {"heads", c->heads, MB_MOST_HEADS},
      {"kv_heads", c->kv_heads, MB_MOST_HEADS},
      {"head_dim", c->head_dim, MB_MOST_HEAD_DIM},
      {"feed_forward", c->feed_forward, MB_MOST_FEED_FORWARD},
      {"context", c->context, MB_MOST_CONTEXT},
      {"default_context", c->default_context, MB_MOST_CONTEXT},
  };
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
      return mb_fail(MB_ERROR_FORMAT, "weights.ptd: %s is %u: 1 to %u are possible (damaged file?)", sizes[i].name,
                     sizes[i].value, sizes[i].most);
  }
  /* Both factors are small now. */
  if (c->heads * c->head_dim > MB_MOST_ATTENTION)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: heads * head_dim is %u: %u at most (damaged file?)",
                   c->heads * c->head_dim, MB_MOST_ATTENTION);
  if (c->heads % c->kv_heads != 0 || c->heads / c->kv_heads > MB_MOST_SHARED_HEADS)
    return mb_fail(MB_ERROR_FORMAT,
                   "weights.ptd: heads is %u, kv_heads %u: it must be 1 to %u times as many (damaged file?)", c->heads,
                   c->kv_heads, MB_MOST_SHARED_HEADS);
  if (c->head_dim % 2 != 0)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: head_dim is %u: it must be even (damaged file?)", c->head_dim);
  if (c->default_context > c->context)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: default_context is %u: context is %u (damaged file?)",
                   c->default_context, c->context);
  return MB_OK;
}

/* Whether the set has only layers that there are. */
static bool is_layer_set(const uint8_t set[MB_LAYER_SET_BYTES], uint32_t layers) {
  for (uint32_t l = layers; l < 8 * MB_LAYER_SET_BYTES; l++)
    if (mb_layer_in_set(set, l)) return false;
  return true;
}

/* Without taps no layer has a convolution, and with them some do. */
static bool is_convolution(const mb_model_config *c) {
  bool any = false;
  for (uint32_t l = 0; l < c->layers; l++) any = any || mb_is_convolution(c, l);
  return any ? c->convolution_taps >= 2 && c->convolution_taps <= MB_MOST_TAPS : c->convolution_taps == 0;
}

static bool is_factor(float value) { return isfinite(value) && value >= 0; }

/* What the fields behind the name say: zeros for most models. */
static mb_status check_variants(const mb_model_config *c) {
  const bool factors = is_factor(c->embedding_scale) && is_factor(c->residual_scale) && is_factor(c->query_scale) &&
                       is_factor(c->rotary_scale) && is_factor(c->score_cap) && is_factor(c->logit_cap);
  if (!factors || c->rotary_dim > c->head_dim || c->rotary_dim % 2 != 0 || !is_layer_set(c->full_layers, c->layers) ||
      !is_layer_set(c->unrotated_layers, c->layers) || !is_layer_set(c->convolution_layers, c->layers) ||
      !is_convolution(c))
    return mb_fail(MB_ERROR_FORMAT,
                   "weights.ptd: the model's scales, rotary_dim, caps, taps or sets of layers are not possible "
                   "(damaged file?)");
  return MB_OK;
}

mb_status mb_config_check(const mb_model_config *c) {
  const mb_status status = check_sizes(c);
  if (status != MB_OK) return status;
  if (c->activation < MB_ACTIVATION_SILU || c->activation > MB_ACTIVATION_GELU_TANH)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: unknown activation function %u: made by a newer version?",
                   c->activation);
  if (c->flags & ~(uint32_t)MB_KNOWN_MODEL_FLAGS)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: unknown model flags 0x%x: made by a newer version?", c->flags);
  uint8_t reserved = 0;
  for (size_t i = 0; i < sizeof c->reserved; i++) reserved |= c->reserved[i];
  if (reserved)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: reserved settings of the model are in use: made by a newer version?");
  if (!isfinite(c->norm_epsilon) || c->norm_epsilon < 0 || c->eos_count > MB_MODEL_MAX_EOS ||
      !memchr(c->name, 0, sizeof c->name))
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: the model's settings are not possible (damaged file?)");
  return check_variants(c);
}

/* Checks a model's dimensions against the limits of weights_index.h. */
#ifndef MB_ENGINE_CONFIG_H
#define MB_ENGINE_CONFIG_H

#include "mobile_bundle/mobile_bundle.h"

enum {
  MB_KNOWN_MODEL_FLAGS = MB_MODEL_INT8_ACTIVATIONS | MB_MODEL_NO_INPUT_NORMS | MB_MODEL_OUTPUT_NORMS |
      MB_MODEL_WIDE_QK_NORMS | MB_MODEL_LATE_QK_NORMS | MB_MODEL_WINDOW_ROPE,
};

/* Whether a set (full_layers, unrotated_layers) holds the layer. */
static inline bool mb_layer_in_set(const uint8_t set[MB_LAYER_SET_BYTES], uint32_t layer) {
  return layer < 8 * MB_LAYER_SET_BYTES && (set[layer / 8] >> layer % 8 & 1) != 0;
}

/* Whether the layer has a short convolution in place of attention. */
static inline bool mb_is_convolution(const mb_model_config *c, uint32_t layer) {
  return mb_layer_in_set(c->convolution_layers, layer);
}

/* Positions that a query of the layer sees, itself included; 0: all. */
static inline uint32_t mb_layer_window(const mb_model_config *c, uint32_t layer) {
  return mb_layer_in_set(c->full_layers, layer) ? 0 : c->sliding_window;
}

/* Values of a head that are rotated. */
static inline uint32_t mb_rotary_dim(const mb_model_config *c) { return c->rotary_dim ? c->rotary_dim : c->head_dim; }

/* A factor whose 0 stands for 1. */
static inline float mb_factor(float stored) { return stored != 0 ? stored : 1.0f; }

/* MB_ERROR_FORMAT and a message that names the value and its limit. Dimensions that pass do not
 * overflow: heads * head_dim fits 32 bits, the KV cache of a whole context 64. */
mb_status mb_config_check(const mb_model_config *config);

#endif

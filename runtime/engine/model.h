/* A model: views of every tensor the decoder needs, all checked when the bundle is opened. */
#ifndef MB_ENGINE_MODEL_H
#define MB_ENGINE_MODEL_H

#include "engine/layer_mapping.h"
#include "engine/weights.h"

/* A matrix and its bias: one of the linear maps of a layer. */
typedef struct {
  mb_matrix weight;
  const float *bias; /* NULL: none */
} mb_projection;

typedef struct {
  const float *attention_norm; /* OLMo 2; NULL: none */
  const float *taps;           /* LFM2: [taps][hidden] of the convolution in place of attention; NULL: attention */
  mb_projection convolution;   /* its input, and `output` is its output; query, key and value are not there */
  mb_projection query, key, value, output;
  const float *query_norm, *key_norm; /* Qwen3; NULL: none */
  const float *attention_sub_norm;    /* BitNet; NULL: none */
  const float *output_norm;           /* of what attention gives: Gemma 3; NULL: none */
  const float *mlp_norm;              /* OLMo 2; NULL: none */
  mb_projection gate, up, down;
  const float *mlp_sub_norm;    /* BitNet; NULL: none */
  const float *mlp_output_norm; /* Gemma 3; NULL: none */
  uint32_t window;              /* positions that a query sees; 0: all */
  uint32_t full_before;         /* layers before this one whose attention sees all positions */
  uint32_t windowed_before;     /* ... a window */
  uint32_t convolutions_before; /* ... that have a convolution instead */
  uint32_t rope;                /* which of the model's rotary tables; MB_NO_ROPE: none */
} mb_layer;

enum { MB_NO_ROPE = 2 };

/* Bytes of the files that generating text reads (mb_memory). */
uint64_t mb_model_touched_bytes(const mb_model *model);
/* As mb_model_open, on the bytes of a weights.ptd that the caller keeps. `check_crc` false: for fuzzing. */
mb_status mb_model_from_memory(const void *bytes, uint64_t size, bool check_crc, const mb_model_options *options,
                               mb_model **model);

struct mb_model {
  mb_weights weights;
  mb_weights cache; /* weights.cache points at it where there are stored tensors */
  const mb_kernels *kernels;
  mb_matrix embedding;
  mb_matrix head; /* the embedding when tied */
  bool tied;
  const float *norm;
  const float *inverse_frequencies[2]; /* [rotary_dim / 2]; the second is of layers with a window, or NULL */
  mb_layer *layers;
  mb_layer_mapping *mapping; /* NULL: MB_MAPPING_WHOLE */
};

#endif

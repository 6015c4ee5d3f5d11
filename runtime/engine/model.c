#include "engine/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/option_struct.h"
#include "engine/config.h"
#include "engine/engine.h"
#include "engine/install.h"
#include "engine/verify.h"
#include "engine/weights_cache.h"

enum { NAME_BYTES = 96 };

/* A norm, bias or table of `size` floats. Optional: *out is NULL when the file has none of that name. */
static mb_status vector(const mb_weights *weights, const char *name, uint32_t size, bool optional, const float **out) {
  *out = NULL;
  if (optional && !mb_weights_has(weights, name)) return MB_OK;
  mb_matrix matrix;
  mb_status status = mb_weights_matrix(weights, name, 1, size, &matrix);
  if (status != MB_OK) return status;
  if (matrix.format != MB_FORMAT_F32)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s must be float32: build the bundle again", name);
  *out = (const float *)(const void *)matrix.data;
  return MB_OK;
}

static mb_status linear(const mb_weights *weights, const char *prefix, uint32_t rows, uint32_t columns,
                        mb_projection *out) {
  char name[NAME_BYTES];
  snprintf(name, sizeof name, "%s.weight", prefix);
  mb_status status = mb_weights_matrix(weights, name, rows, columns, &out->weight);
  if (status != MB_OK) return status;
  snprintf(name, sizeof name, "%s.bias", prefix);
  return vector(weights, name, rows, true, &out->bias);
}

#define TRY(call)                               \
  do {                                          \
    mb_status try_status = (call);              \
    if (try_status != MB_OK) return try_status; \
  } while (0)

#define NAME(suffix) (snprintf(name, sizeof name, "layers.%u." suffix, index), name)

/* The MLP, and the norms behind both halves. */
static mb_status open_feed_forward(const mb_weights *weights, uint32_t index, mb_layer *layer) {
  const mb_model_config *c = &weights->config;
  char name[NAME_BYTES];
  if (!(c->flags & MB_MODEL_NO_INPUT_NORMS))
    TRY(vector(weights, NAME("mlp.norm.weight"), c->hidden, false, &layer->mlp_norm));
  TRY(linear(weights, NAME("mlp.gate"), c->feed_forward, c->hidden, &layer->gate));
  TRY(linear(weights, NAME("mlp.up"), c->feed_forward, c->hidden, &layer->up));
  TRY(linear(weights, NAME("mlp.down"), c->hidden, c->feed_forward, &layer->down));
  TRY(vector(weights, NAME("mlp.sub_norm.weight"), c->feed_forward, true, &layer->mlp_sub_norm));
  if (c->flags & MB_MODEL_OUTPUT_NORMS) {
    TRY(vector(weights, NAME("attention.output.norm.weight"), c->hidden, false, &layer->output_norm));
    TRY(vector(weights, NAME("mlp.output.norm.weight"), c->hidden, false, &layer->mlp_output_norm));
  }
  return MB_OK;
}

static mb_status open_layer(const mb_weights *weights, uint32_t index, mb_layer *layer) {
  const mb_model_config *c = &weights->config;
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const bool inputs = !(c->flags & MB_MODEL_NO_INPUT_NORMS), wide = (c->flags & MB_MODEL_WIDE_QK_NORMS) != 0;
  char name[NAME_BYTES];
  if (inputs) TRY(vector(weights, NAME("attention.norm.weight"), c->hidden, false, &layer->attention_norm));
  if (mb_is_convolution(c, index)) {
    TRY(linear(weights, NAME("conv.input"), 3 * c->hidden, c->hidden, &layer->convolution));
    TRY(vector(weights, NAME("conv.taps.weight"), c->convolution_taps * c->hidden, false, &layer->taps));
    TRY(linear(weights, NAME("conv.output"), c->hidden, c->hidden, &layer->output));
    return open_feed_forward(weights, index, layer);
  }
  TRY(linear(weights, NAME("attention.query"), attention, c->hidden, &layer->query));
  TRY(linear(weights, NAME("attention.key"), kv, c->hidden, &layer->key));
  TRY(linear(weights, NAME("attention.value"), kv, c->hidden, &layer->value));
  TRY(linear(weights, NAME("attention.output"), c->hidden, attention, &layer->output));
  TRY(vector(weights, NAME("attention.query.norm.weight"), wide ? attention : c->head_dim, true, &layer->query_norm));
  TRY(vector(weights, NAME("attention.key.norm.weight"), wide ? kv : c->head_dim, true, &layer->key_norm));
  TRY(vector(weights, NAME("attention.sub_norm.weight"), attention, true, &layer->attention_sub_norm));
  return open_feed_forward(weights, index, layer);
}

#undef NAME

/* What each layer sees, and how it rotates. */
static void place_layers(mb_model *model) {
  const mb_model_config *c = &model->weights.config;
  uint32_t full = 0, windowed = 0, convolutions = 0;
  for (uint32_t l = 0; l < c->layers; l++) {
    mb_layer *layer = &model->layers[l];
    layer->window = layer->taps ? 0 : mb_layer_window(c, l);
    layer->full_before = full;
    layer->windowed_before = windowed;
    layer->convolutions_before = convolutions;
    convolutions += layer->taps != NULL;
    windowed += layer->window != 0;
    full += !layer->taps && layer->window == 0;
    layer->rope = layer->window && model->inverse_frequencies[1] ? 1 : 0;
    if (mb_layer_in_set(c->unrotated_layers, l)) layer->rope = MB_NO_ROPE;
  }
}

static mb_status open_tensors(mb_model *model) {
  const mb_weights *weights = &model->weights;
  const mb_model_config *c = &weights->config;
  TRY(mb_weights_matrix(weights, "embedding.weight", c->vocabulary, c->hidden, &model->embedding));
  model->tied = !mb_weights_has(weights, "output.weight");
  model->head = model->embedding;
  if (!model->tied) TRY(mb_weights_matrix(weights, "output.weight", c->vocabulary, c->hidden, &model->head));
  TRY(vector(weights, "norm.weight", c->hidden, false, &model->norm));
  const uint32_t half = mb_rotary_dim(c) / 2;
  TRY(vector(weights, "rope.inverse_frequencies", half, false, &model->inverse_frequencies[0]));
  if (c->flags & MB_MODEL_WINDOW_ROPE)
    TRY(vector(weights, "rope.window.inverse_frequencies", half, false, &model->inverse_frequencies[1]));
  for (uint32_t i = 0; i < c->layers; i++) {
    TRY(open_layer(weights, i, &model->layers[i]));
    mb_weights_release(weights);
  }
  place_layers(model);
  return MB_OK;
}

/* A model whose weights are still to be opened. kernels: their name, NULL for the best. */
static mb_status new_model(const char *kernels, mb_model **out) {
  *out = NULL;
  mb_model *model = calloc(1, sizeof *model);
  if (!model) return mb_fail(MB_ERROR_MEMORY, "no memory to open a model");
  model->kernels = mb_kernels_select(kernels);
  if (!model->kernels) {
    free(model);
    return mb_fail(MB_ERROR_ARGUMENT, "this processor or build has no %s kernels", kernels ? kernels : "usable");
  }
  *out = model;
  return MB_OK;
}

/* Binds every tensor once the weights are open; `status` is how opening them went. An error closes the model. */
static mb_status finish(mb_model *model, mb_status status, mb_mapping mapping, mb_model **out) {
  if (status == MB_OK) {
    model->layers = calloc(model->weights.config.layers, sizeof *model->layers);
    status = model->layers ? open_tensors(model) : mb_fail(MB_ERROR_MEMORY, "no memory to open a model");
  }
  if (status == MB_OK && mapping == MB_MAPPING_LAYERS) status = mb_layer_mapping_open(model, &model->mapping);
  if (status != MB_OK) {
    mb_model_close(model);
    return status;
  }
  *out = model;
  return MB_OK;
}

static mb_status use_cache(mb_model *model, const char *path, mb_mapping mapping) {
  mb_status status = mb_weights_cache_open(path, &model->weights, mapping, &model->cache);
  if (status == MB_OK) model->weights.cache = &model->cache;
  return status;
}

/* The first load of a bundle with stored tensors installs it; so does one whose cache does not fit any more. */
static mb_status open_weights(mb_model *model, const char *bundle, const mb_model_options *o) {
  char path[MB_PATH_BYTES], cache_path[MB_PATH_BYTES];
  mb_status status = mb_weights_path(bundle, path);
  if (status == MB_OK) status = mb_weights_open(path, o->mapping, &model->weights);
  if (status != MB_OK || mb_stored_count(&model->weights) == 0) return status;
  status = mb_weights_cache_path(path, o->cache_dir, cache_path);
  if (status != MB_OK || use_cache(model, cache_path, o->mapping) == MB_OK) return status;
  mb_install_result result;
  status = mb_install_cache(path, cache_path, o->progress, o->progress_context, &result);
  return status == MB_OK ? use_cache(model, cache_path, o->mapping) : status;
}

static mb_status take_options(const mb_model_options *given, mb_model_options *own) {
  mb_status status = mb_options_take("mb_model_options", given, own, sizeof *own);
  if (status == MB_OK && own->mapping != MB_MAPPING_WHOLE && own->mapping != MB_MAPPING_LAYERS)
    status = mb_fail(MB_ERROR_ARGUMENT, "unknown mapping %d", (int)own->mapping);
  return status;
}

mb_status mb_model_open(const char *bundle, const mb_model_options *options, mb_model **out) {
  mb_model_options own;
  mb_model *model;
  *out = NULL;
  mb_status status = take_options(options, &own);
  if (status == MB_OK) status = new_model(own.kernels, &model);
  return status == MB_OK ? finish(model, open_weights(model, bundle, &own), own.mapping, out) : status;
}

mb_status mb_verify(const char *bundle, const char *cache_dir) {
  char path[MB_PATH_BYTES], cache_path[MB_PATH_BYTES];
  mb_model *model;
  mb_status status = mb_weights_path(bundle, path);
  if (status == MB_OK) status = mb_weights_cache_path(path, cache_dir, cache_path);
  if (status == MB_OK) status = new_model(NULL, &model);
  if (status != MB_OK) return status;
  status = mb_weights_open(path, MB_MAPPING_LAYERS, &model->weights);
  const bool stored = status == MB_OK && mb_stored_count(&model->weights) > 0;
  if (stored && access(cache_path, F_OK) == 0) status = use_cache(model, cache_path, MB_MAPPING_LAYERS);
  if (status == MB_OK) status = mb_weights_verify(&model->weights);
  if (status == MB_OK && stored && !model->weights.cache) {
    mb_model_close(model);
    return MB_OK;
  }
  status = finish(model, status, MB_MAPPING_WHOLE, &model);
  if (status == MB_OK) mb_model_close(model);
  return status;
}

mb_status mb_model_from_memory(const void *bytes, uint64_t size, bool check_crc, const mb_model_options *options,
                               mb_model **out) {
  mb_model_options own;
  mb_model *model;
  *out = NULL;
  mb_status status = take_options(options, &own);
  if (status == MB_OK) status = new_model(own.kernels, &model);
  if (status != MB_OK) return status;
  return finish(model, mb_weights_from_memory(bytes, size, check_crc, &model->weights), MB_MAPPING_WHOLE, out);
}

void mb_model_close(mb_model *model) {
  if (!model) return;
  mb_layer_mapping_close(model->mapping);
  mb_weights_close(&model->cache);
  mb_weights_close(&model->weights);
  free(model->layers);
  free(model);
}

const mb_model_config *mb_model_get_config(const mb_model *model) { return &model->weights.config; }

const char *mb_model_kernels(const mb_model *model) { return model->kernels->name; }

const mb_index_record *mb_model_record_at(const mb_model *model, uint64_t offset, uint64_t bytes) {
  for (uint32_t i = 0; i < model->weights.count; i++) {
    const mb_index_record *r = &model->weights.records[i];
    if (r->offset == offset && r->bytes == bytes) return r;
  }
  return NULL;
}

mb_status mb_model_matrix(const mb_model *model, const mb_index_record *record, mb_matrix *matrix) {
  char name[MB_MOST_NAME_BYTES + 1]; /* the index has been checked: none is longer */
  memcpy(name, model->weights.names + record->name_offset, record->name_bytes);
  name[record->name_bytes] = 0;
  return mb_weights_matrix(&model->weights, name, record->rows, record->columns, matrix);
}

uint64_t mb_model_touched_bytes(const mb_model *model) {
  const mb_weights *w = &model->weights;
  uint64_t bytes = w->file_bytes + model->cache.file_bytes;
  for (uint32_t i = 0; i < w->count && w->cache; i++) bytes -= mb_is_stored(&w->records[i]) ? w->records[i].bytes : 0;
  return model->tied ? bytes : bytes - mb_weights_bytes(w, "embedding.weight");
}

mb_status mb_model_verify(const mb_model *model) { return mb_weights_verify(&model->weights); }

/* mobile-run-onnx: model.onnx, by the C API of an ONNX Runtime that is loaded while it runs. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/sizes.h"
#include "onnxruntime/runtime_library.h"
#include "runner/foreign.h"
#include "runner/process_memory.h"

enum {
  NAME_BYTES = 40,
  PATH_BYTES = 4096,
  OWN_INPUTS = 2,
  OWN_OUTPUTS = 1,
  ALIGNMENT = 64,
  /* A session beside its weights and activations, and the library's code that it runs, measured on x86-64. */
  SESSION_BYTES = 9 << 20,        /* of our graph, without the pages that are given back */
  CREATION_BYTES = 10 << 20,      /* while it is created, before that */
  LARGE_SESSION_BYTES = 12 << 20, /* of a graph of many nodes: 11 to 13 MB with 8 to 28 layers */
};

struct decoder {
  foreign_bundle bundle;
  const OrtApi *api;
  OrtEnv *env;
  OrtSession *session;
  OrtRunOptions *run_options;
  OrtMemoryInfo *memory;
  /* The first two inputs are the tokens and the mask, the first output is the logits; then keys and values follow in
   * the same order. A cache is input and output: the attention writes what is new behind what is there. */
  uint32_t caches;
  uint32_t heads, head_dim;  /* of each of them */
  uint64_t given_back;       /* of the library's pages, after loading */
  char (*names)[NAME_BYTES]; /* of the inputs, then of the outputs */
  const char **input_names, **output_names;
  OrtValue **inputs, **outputs;
  /* One anonymous mapping. The kernel gives a page when it is first written: a short chat does not pay for the context.
   */
  uint8_t *area;
  size_t area_bytes;
  int64_t *tokens, *mask;
  float *logits;
  atomic_bool cancelled;
};

const char decoder_runtime[] = "onnx";
const char decoder_program[] = "mobile-run-onnx";
const unsigned decoder_option_set = DECODER_KV | DECODER_KERNELS | DECODER_MAPPING | DECODER_RUNTIME_LIBRARY;

/* ONNX Runtime's reason, in one line. */
static mb_status fail(const decoder *d, OrtStatus *status) {
  char message[400];
  snprintf(message, sizeof message, "%s", d->api->GetErrorMessage(status));
  d->api->ReleaseStatus(status);
  for (char *c = message; *c; c++)
    if ((unsigned char)*c < ' ') *c = ' ';
  return mb_fail(MB_ERROR_FORMAT, "model.onnx: %s", message);
}

#define TRY(call)                               \
  do {                                          \
    OrtStatus *try_status = (call);             \
    if (try_status) return fail(d, try_status); \
  } while (0)

static mb_status foreign_graph(void) {
  return mb_fail(MB_ERROR_FORMAT, "model.onnx does not belong to these weights: build the bundle again");
}

static mb_status set_number(decoder *d, OrtSessionOptions *options, const char *key, uint32_t number) {
  char text[16];
  snprintf(text, sizeof text, "%u", number);
  TRY(d->api->AddSessionConfigEntry(options, key, text));
  return MB_OK;
}

/* What the operator Decoder reads when it is registered (settings.h). */
static mb_status set_entries(const runner_options *o, decoder *d, OrtSessionOptions *options) {
  static const char *const kv_types[] = {
      [MB_KV_INT8] = "int8", [MB_KV_F16] = "f16", [MB_KV_INT4] = "int4", [MB_KV_K8V4] = "k8v4"};
  const mb_session_options *s = &d->bundle.options;
  mb_status status = set_number(d, options, "mobile_bundle.threads", s->threads);
  if (status == MB_OK) status = set_number(d, options, "mobile_bundle.context", s->context);
  if (status == MB_OK) status = set_number(d, options, "mobile_bundle.prefill_chunk", s->prefill_chunk);
  if (status != MB_OK) return status;
  TRY(d->api->AddSessionConfigEntry(options, "mobile_bundle.kv_type", kv_types[s->kv_type]));
  TRY(d->api->AddSessionConfigEntry(options, "mobile_bundle.mapping",
                                    o->model.mapping == MB_MAPPING_LAYERS ? "layers" : "whole"));
  if (o->model.kernels) TRY(d->api->AddSessionConfigEntry(options, "mobile_bundle.kernels", o->model.kernels));
  return MB_OK;
}

static mb_status open_session(decoder *d, const char *model, const char *operators, OrtSessionOptions *options) {
  TRY(d->api->SetIntraOpNumThreads(options, (int)d->bundle.options.threads));
  TRY(d->api->SetInterOpNumThreads(options, 1));
  TRY(d->api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
  /* A plan of memory is kept for every set of input shapes, and each step has a longer mask than the one before. */
  TRY(d->api->DisableMemPattern(options));
  /* Threads that spin between operators take the processor from one that has work as soon as anything else runs: half
   * the speed then, for nothing gained on an idle machine. */
  TRY(d->api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
  TRY(d->api->RegisterCustomOpsLibrary_V2(options, operators));
  TRY(d->api->CreateSession(d->env, model, options, &d->session));
  return MB_OK;
}

static mb_status cache_shape(decoder *d, int64_t *shape, size_t rank) {
  OrtTypeInfo *info = NULL;
  const OrtTensorTypeAndShapeInfo *tensor = NULL;
  size_t found = 0;
  TRY(d->api->SessionGetInputTypeInfo(d->session, OWN_INPUTS, &info));
  OrtStatus *error = d->api->CastTypeInfoToTensorInfo(info, &tensor);
  if (!error && tensor) error = d->api->GetDimensionsCount(tensor, &found);
  if (!error && found == rank) error = d->api->GetDimensions(tensor, shape, rank);
  d->api->ReleaseTypeInfo(info);
  TRY(error);
  return found == rank ? MB_OK : foreign_graph();
}

/* Ours has the KV cache in its operator, and the tokens as past and present: one pair, one number a position. Others
 * that onnxruntime-genai could bind have a pair of caches for each layer: what older versions of this tool wrote, and
 * the peers of our benchmarks. */
static mb_status look_at_graph(const runner_options *o, decoder *d) {
  int64_t shape[4] = {0};
  size_t inputs = 0, outputs = 0;
  TRY(d->api->SessionGetInputCount(d->session, &inputs));
  TRY(d->api->SessionGetOutputCount(d->session, &outputs));
  if (inputs <= OWN_INPUTS || inputs - OWN_INPUTS > 2 * (size_t)d->bundle.config.layers ||
      outputs != inputs - OWN_INPUTS + OWN_OUTPUTS)
    return foreign_graph();
  d->caches = (uint32_t)(inputs - OWN_INPUTS);
  const mb_status status = cache_shape(d, shape, 4);
  if (status != MB_OK) return status;
  if (shape[1] < 1 || shape[1] > INT16_MAX || shape[3] < 1 || shape[3] > INT16_MAX) return foreign_graph();
  d->heads = (uint32_t)shape[1];
  d->head_dim = (uint32_t)shape[3];
  d->bundle.keeps_all = d->caches != 2 || d->heads * d->head_dim != 1;
  if (d->bundle.keeps_all &&
      (d->bundle.options.kv_type != MB_KV_INT8 || o->model.kernels || o->model.mapping != MB_MAPPING_WHOLE))
    return mb_fail(MB_ERROR_ARGUMENT,
                   "this model.onnx has an attention of its own: leave --kv, --kernels and --mapping out, or build the "
                   "bundle again");
  return MB_OK;
}

static mb_status open_model(const runner_options *o, decoder *d) {
  char model[PATH_BYTES], operators[PATH_BYTES];
  const int length = snprintf(model, sizeof model, "%s/model.onnx", o->bundle);
  if (length < 0 || (size_t)length >= sizeof model) return mb_fail(MB_ERROR_ARGUMENT, "the bundle's path is too long");
  if (access(model, R_OK) != 0)
    return mb_fail(MB_ERROR_IO, "%s is missing: build the bundle with --formats onnx", model);
  mb_status status = operator_library_path(operators, sizeof operators);
  if (status != MB_OK) return status;
  OrtSessionOptions *options;
  TRY(d->api->CreateSessionOptions(&options));
  status = set_entries(o, d, options);
  if (status == MB_OK) status = open_session(d, model, operators, options);
  d->api->ReleaseSessionOptions(options);
  return status == MB_OK ? look_at_graph(o, d) : status;
}

static uint64_t aligned(uint64_t bytes) { return mb_size_round_up(bytes, ALIGNMENT); }

static mb_status make_floats(decoder *d, float *data, const int64_t *shape, size_t rank, OrtValue **value) {
  size_t count = 1;
  for (size_t i = 0; i < rank; i++) count *= (size_t)shape[i];
  TRY(d->api->CreateTensorWithDataAsOrtValue(d->memory, data, count * sizeof *data, shape, rank,
                                             ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, value));
  return MB_OK;
}

static mb_status make_integers(decoder *d, int64_t *data, uint32_t count, OrtValue **value) {
  const int64_t shape[] = {1, count};
  TRY(d->api->CreateTensorWithDataAsOrtValue(d->memory, data, count * sizeof *data, shape, 2,
                                             ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, value));
  return MB_OK;
}

static void name_tensors(decoder *d) {
  const uint32_t inputs = OWN_INPUTS + d->caches, outputs = OWN_OUTPUTS + d->caches;
  for (uint32_t i = 0; i < inputs; i++) d->input_names[i] = d->names[i];
  for (uint32_t i = 0; i < outputs; i++) d->output_names[i] = d->names[inputs + i];
  snprintf(d->names[0], NAME_BYTES, "input_ids");
  snprintf(d->names[1], NAME_BYTES, "attention_mask");
  snprintf(d->names[inputs], NAME_BYTES, "logits");
  for (uint32_t i = 0; i < d->caches; i++) {
    const char *part = i % 2 ? "value" : "key";
    snprintf(d->names[OWN_INPUTS + i], NAME_BYTES, "past_key_values.%u.%s", i / 2, part);
    snprintf(d->names[inputs + OWN_OUTPUTS + i], NAME_BYTES, "present.%u.%s", i / 2, part);
  }
}

static mb_status make_room(decoder *d) {
  const mb_model_config *c = &d->bundle.config;
  const mb_session_options *o = &d->bundle.options;
  const size_t inputs = OWN_INPUTS + d->caches, outputs = OWN_OUTPUTS + d->caches;
  const uint64_t vector = mb_size_multiply(d->heads, mb_size_multiply(d->head_dim, sizeof(float)));
  const uint64_t cache = aligned(mb_size_multiply(vector, o->context));
  const uint64_t token_bytes = aligned(mb_size_multiply(o->prefill_chunk, sizeof(int64_t))),
                 mask_bytes = aligned(mb_size_multiply(o->context, sizeof(int64_t))),
                 logits_bytes = aligned(mb_size_multiply(c->vocabulary, sizeof(float)));
  const uint64_t area_bytes =
      mb_size_add(mb_size_add(token_bytes, mask_bytes), mb_size_add(logits_bytes, mb_size_multiply(d->caches, cache)));
  d->names = calloc(inputs + outputs, sizeof *d->names);
  d->input_names = calloc(inputs, sizeof *d->input_names);
  d->output_names = calloc(outputs, sizeof *d->output_names);
  d->inputs = calloc(inputs, sizeof *d->inputs);
  d->outputs = calloc(outputs, sizeof *d->outputs);
  void *area = MAP_FAILED;
  if (mb_size_fits(area_bytes))
    area = mmap(NULL, (size_t)area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area != MAP_FAILED) {
    d->area = area;
    d->area_bytes = (size_t)area_bytes;
  }
  if (!d->names || !d->input_names || !d->output_names || !d->inputs || !d->outputs || !d->area)
    return mb_fail(MB_ERROR_MEMORY, "no memory for a context of %u tokens", o->context);
  uint8_t *at = d->area;
  d->tokens = (int64_t *)(void *)at;
  d->mask = (int64_t *)(void *)(at += token_bytes);
  d->logits = (float *)(void *)(at += mask_bytes);
  at += logits_bytes;
  for (uint32_t i = 0; i < o->context; i++) d->mask[i] = 1;
  name_tensors(d);
  const int64_t logits[] = {1, 1, c->vocabulary}, shape[] = {1, d->heads, o->context, d->head_dim};
  mb_status status = make_floats(d, d->logits, logits, 3, &d->outputs[0]);
  for (uint32_t i = 0; i < d->caches && status == MB_OK; i++, at += cache) {
    status = make_floats(d, (float *)(void *)at, shape, 4, &d->inputs[OWN_INPUTS + i]);
    d->outputs[OWN_OUTPUTS + i] = d->inputs[OWN_INPUTS + i];
  }
  return status;
}

/* Loading is over: what it alone needed goes before the weights come. */
static void give_back(decoder *d) {
  const uint64_t before = process_memory_read().file_bytes;
  runtime_library_give_back(d->api);
  const uint64_t after = process_memory_read().file_bytes;
  d->given_back = before > after ? before - after : 0;
}

static mb_status load(const runner_options *o, decoder *d) {
  mb_status status = runtime_library_open(o->runtime_library, &d->api);
  if (status != MB_OK) return status;
  /* Errors are told once, by whoever called; below them ONNX Runtime's log has nothing for a person. */
  TRY(d->api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, decoder_program, &d->env));
  if (o->model.cache_dir) setenv("MOBILE_BUNDLE_CACHE_DIR", o->model.cache_dir, 1);
  status = foreign_open(o, &d->bundle);
  if (status != MB_OK) return status;
  TRY(d->api->CreateRunOptions(&d->run_options));
  TRY(d->api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &d->memory));
  status = open_model(o, d);
  if (status == MB_OK && !d->bundle.keeps_all) give_back(d);
  return status == MB_OK ? make_room(d) : status;
}

mb_status decoder_open(const runner_options *options, decoder **out) {
  decoder *d = calloc(1, sizeof *d);
  if (!d) return mb_fail(MB_ERROR_MEMORY, "no memory to open a bundle");
  const mb_status status = load(options, d);
  if (status != MB_OK) {
    decoder_close(d);
    d = NULL;
  }
  *out = d;
  return status;
}

void decoder_close(decoder *d) {
  if (!d) return;
  if (d->inputs)
    for (uint32_t i = 0; i < OWN_INPUTS + d->caches; i++)
      if (d->inputs[i]) d->api->ReleaseValue(d->inputs[i]);
  if (d->outputs && d->outputs[0]) d->api->ReleaseValue(d->outputs[0]); /* the others are inputs, too */
  if (d->session) d->api->ReleaseSession(d->session);
  if (d->memory) d->api->ReleaseMemoryInfo(d->memory);
  if (d->run_options) d->api->ReleaseRunOptions(d->run_options);
  if (d->env) d->api->ReleaseEnv(d->env);
  if (d->area) munmap(d->area, d->area_bytes);
  free(d->names);
  free((void *)d->input_names);
  free((void *)d->output_names);
  free((void *)d->inputs);
  free((void *)d->outputs);
  free(d);
}

mb_status decoder_memory(const decoder *d, uint32_t chunk, uint32_t positions, mb_memory *memory) {
  const mb_status status = foreign_memory(&d->bundle, chunk, positions, memory);
  if (d->bundle.keeps_all) {
    memory->kv_bytes_per_token = (uint64_t)d->caches * d->heads * d->head_dim * sizeof(float);
    memory->kv_bytes = memory->kv_bytes_per_token * positions;
    memory->process_bytes += LARGE_SESSION_BYTES;
    return status;
  }
  /* The peak is that of creating the session, or that of computing. */
  const uint64_t rest = memory->resident_file_bytes + memory->kv_bytes + memory->scratch_bytes;
  const uint64_t creating = memory->process_bytes + CREATION_BYTES;
  const uint64_t computing = memory->process_bytes + SESSION_BYTES;
  memory->process_bytes = computing > d->given_back ? computing - d->given_back : 0;
  if (memory->process_bytes + rest < creating) memory->process_bytes = creating - rest;
  return status;
}

foreign_bundle *foreign_bundle_of(const decoder *d) { return (foreign_bundle *)(uintptr_t)&d->bundle; }

mb_status foreign_compute(decoder *d, const int32_t *tokens, uint32_t count, const float **logits) {
  *logits = d->logits;
  for (uint32_t i = 0; i < count; i++) d->tokens[i] = tokens[i];
  for (uint32_t i = 0; i < OWN_INPUTS; i++) {
    if (d->inputs[i]) d->api->ReleaseValue(d->inputs[i]);
    d->inputs[i] = NULL;
  }
  mb_status status = make_integers(d, d->tokens, count, &d->inputs[0]);
  if (status == MB_OK) status = make_integers(d, d->mask, d->bundle.position + count, &d->inputs[1]);
  if (status != MB_OK) return status;
  OrtStatus *error = d->api->Run(d->session, d->run_options, d->input_names, (const OrtValue *const *)d->inputs,
                                 OWN_INPUTS + d->caches, d->output_names, OWN_OUTPUTS + d->caches, d->outputs);
  if (!error) return MB_OK;
  if (!atomic_exchange(&d->cancelled, false)) return fail(d, error);
  d->api->ReleaseStatus(error);
  TRY(d->api->RunOptionsUnsetTerminate(d->run_options));
  return mb_fail(MB_ERROR_CANCELLED, "cancelled");
}

void decoder_cancel(decoder *d) {
  atomic_store(&d->cancelled, true);
  OrtStatus *status = d->api->RunOptionsSetTerminate(d->run_options);
  if (status) d->api->ReleaseStatus(status);
}

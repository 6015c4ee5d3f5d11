/* Decoder: the engine itself as one operator, so that its logits are the engine's bit for bit. Its KV cache lies in the
 * engine's session inside the kernel. What goes around the graph as past and present are the tokens that the cache was
 * made of: so a run is a function of its inputs alone. Where the session holds another text than the past (a new
 * sequence, a step back, a second conversation), the kernel goes back to where the two part and reads the rest again.
 */
#include "onnxruntime/decoder.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "onnxruntime/attributes.h"
#include "onnxruntime/constant.h"
#include "onnxruntime/open_models.h"
#include "onnxruntime/tensor.h"

enum { PATH_BYTES = 4096, IDS = 0, MASK, PAST, INDEX, INPUTS, LOGITS = 0, PRESENT, SPARE, OUTPUTS };

/* ONNX Runtime may run one session from several threads at once; `lock` guards all that changes. */
typedef struct {
  pthread_mutex_t lock;
  mb_model *model;
  mb_session *session;
  uint32_t vocabulary, context;
  int32_t *held; /* [context]: the tokens that the session holds, as many as its position says */
  int32_t *next; /* [context]: those of the run at hand, its past first */
} decoder;

/* The tokens of a run: `past` of the past, then the new ones. */
typedef struct {
  onnx_tensor ids, mask, before;
  uint32_t past, total;
} run_tokens;

static OrtStatus *engine_failed(mb_status status) {
  const OrtErrorCode code = status == MB_ERROR_ARGUMENT ? ORT_INVALID_ARGUMENT
                            : status == MB_ERROR_IO     ? ORT_NO_SUCHFILE
                                                        : ORT_FAIL;
  return mb_ort_fail(code, "%s", mb_error_message());
}

static void ORT_API_CALL destroy(void *op) {
  decoder *d = op;
  mb_session_close(d->session);
  if (d->model) open_models_release(d->model);
  pthread_mutex_destroy(&d->lock);
  free(d->held);
  free(d->next);
  free(d);
}

/* The file that the index is a mapping of, if it is the index that the graph was made with. */
static OrtStatus *find_weights(const OrtKernelInfo *info, char *path, size_t capacity) {
  onnx_constant index;
  mb_index_header header;
  uint64_t offset;
  MB_ORT_TRY(onnx_constant_read(info, INDEX, &index));
  if (index.size < sizeof header)
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: not the index of a weights.ptd", index.name);
  memcpy(&header, index.bytes, sizeof header);
  if (memcmp(header.magic, MB_INDEX_MAGIC, sizeof header.magic) != 0 ||
      header.crc32 != onnx_int(info, "index_crc32", -1))
    return mb_ort_fail(ORT_INVALID_GRAPH,
                       "this weights.ptd does not belong to this model.onnx: take both from one bundle, or build it "
                       "again");
  if (!mb_mapped_file(index.bytes, index.size, path, capacity, &offset))
    return mb_ort_fail(ORT_INVALID_ARGUMENT,
                       "weights.ptd was given from memory; the decoder maps it: give ONNX Runtime the path of "
                       "model.onnx, with weights.ptd beside it");
  return NULL;
}

static OrtStatus *open_decoder(const OrtKernelInfo *info, const onnx_settings *settings, decoder *d) {
  char path[PATH_BYTES];
  MB_ORT_TRY(find_weights(info, path, sizeof path));
  mb_status status = open_models_acquire(path, settings, &d->model);
  if (status != MB_OK) return engine_failed(status);
  d->vocabulary = mb_model_get_config(d->model)->vocabulary;
  if (d->vocabulary != onnx_int(info, "vocabulary", 0))
    return mb_ort_fail(ORT_INVALID_GRAPH, "model.onnx and weights.ptd have different vocabularies: build it again");
  const mb_session_options options = {.size = sizeof options,
                                      .threads = settings->threads,
                                      .context = settings->context,
                                      .prefill_chunk = settings->prefill_chunk,
                                      .kv_type = settings->kv_type};
  status = mb_session_open(d->model, &options, &d->session);
  if (status != MB_OK) return engine_failed(status);
  d->context = mb_session_get_options(d->session)->context;
  d->held = calloc(d->context, sizeof *d->held);
  d->next = calloc(d->context, sizeof *d->next);
  return d->held && d->next ? NULL : mb_ort_fail(ORT_FAIL, "no memory for a context of %u tokens", d->context);
}

static OrtStatusPtr ORT_API_CALL create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                        void **out) {
  (void)api;
  decoder *d = calloc(1, sizeof *d);
  if (!d) return mb_ort_fail(ORT_FAIL, "no memory for a kernel");
  pthread_mutex_init(&d->lock, NULL);
  OrtStatus *status = open_decoder(info, &((const onnx_decoder_operator *)op)->settings, d);
  if (status) {
    destroy(d);
    return status;
  }
  *out = d;
  return NULL;
}

/* How many tokens there are by the mask: ones, and behind them zeros where it has the length of a whole buffer. */
static OrtStatus *count_tokens(const onnx_tensor *mask, size_t *total) {
  const int64_t *ones = mask->data;
  *total = 0;
  while (*total < mask->elements && ones[*total] == 1) ++*total;
  for (size_t i = *total; i < mask->elements; i++)
    if (ones[i] != 0)
      return mb_ort_fail(ORT_INVALID_ARGUMENT, "attention_mask must be ones, then zeros: tokens cannot be left out");
  return NULL;
}

static bool is_row(const onnx_tensor *tensor) { return tensor->rank == 2 && tensor->dimensions[0] == 1; }

static OrtStatus *read_inputs(const decoder *d, const OrtKernelContext *context, run_tokens *run) {
  size_t total = 0;
  MB_ORT_TRY(onnx_input(context, IDS, &run->ids));
  MB_ORT_TRY(onnx_input(context, MASK, &run->mask));
  MB_ORT_TRY(onnx_input(context, PAST, &run->before));
  const onnx_tensor *past = &run->before;
  if (!is_row(&run->ids) || !is_row(&run->mask) || past->rank != 4 || past->dimensions[0] != 1 ||
      past->dimensions[1] != 1 || past->dimensions[3] != 1)
    return mb_ort_fail(ORT_INVALID_ARGUMENT,
                       "input_ids and attention_mask are [1, n], the past is [1, 1, n, 1]: one sequence a run, "
                       "without beams");
  if (run->ids.elements == 0) return mb_ort_fail(ORT_INVALID_ARGUMENT, "no tokens were given");
  MB_ORT_TRY(count_tokens(&run->mask, &total));
  if (total < run->ids.elements || total - run->ids.elements > past->elements)
    return mb_ort_fail(ORT_INVALID_ARGUMENT,
                       "attention_mask has %zu ones, but there are %zu new tokens and %zu in the past", total,
                       run->ids.elements, past->elements);
  if (total > d->context)
    return mb_ort_fail(ORT_INVALID_ARGUMENT,
                       "%zu tokens do not fit a context of %u: shorten the text, or raise the session's config entry "
                       "mobile_bundle.context",
                       total, d->context);
  run->total = (uint32_t)total;
  run->past = (uint32_t)(total - run->ids.elements);
  return NULL;
}

/* The tokens of the past and the new ones, in d->next. The floats of the past hold them exactly: a vocabulary has fewer
 * than 2^24 of them. */
static OrtStatus *gather_tokens(const run_tokens *run, decoder *d) {
  const float *past = run->before.data;
  const int64_t *ids = run->ids.data;
  for (uint32_t i = 0; i < run->past; i++) {
    const bool fits = past[i] >= 0 && past[i] < (float)d->vocabulary;
    d->next[i] = fits ? (int32_t)past[i] : -1;
    if (!fits || (float)d->next[i] != past[i])
      return mb_ort_fail(ORT_INVALID_ARGUMENT,
                         "the past at %u is no token: give what an earlier run of this model.onnx gave as present", i);
  }
  for (size_t i = 0; i < run->ids.elements; i++) {
    if (ids[i] < 0 || ids[i] >= d->vocabulary)
      return mb_ort_fail(ORT_INVALID_ARGUMENT, "token %lld is not in the vocabulary of %u", (long long)ids[i],
                         d->vocabulary);
    d->next[run->past + i] = (int32_t)ids[i];
  }
  return NULL;
}

/* Brings the session to d->next[0..total). */
static mb_status feed(decoder *d, uint32_t total, const float **logits) {
  const uint32_t holds = mb_session_position(d->session);
  uint32_t same = 0;
  while (same < holds && same + 1 < total && d->held[same] == d->next[same]) same++;
  const uint32_t begin = mb_session_rewind_point(d->session, same);
  const mb_status status = mb_session_rewind(d->session, begin);
  if (status != MB_OK) return status;
  /* Before the feed: one that fails midway leaves the position behind what it has finished. */
  memcpy(d->held + begin, d->next + begin, (total - begin) * sizeof *d->held);
  return mb_session_feed(d->session, d->next + begin, total - begin, logits);
}

static OrtStatus *output(OrtKernelContext *context, size_t index, const int64_t *dimensions, size_t rank,
                         float **data) {
  OrtValue *value = NULL;
  void *floats = NULL;
  MB_ORT_TRY(mb_ort->KernelContext_GetOutput(context, index, dimensions, rank, &value));
  if (value) MB_ORT_TRY(mb_ort->GetTensorMutableData(value, &floats)); /* NULL: nobody asks for it */
  *data = floats;
  return NULL;
}

/* All tokens; the past's own buffer may be the present's. */
static OrtStatus *write_present(const decoder *d, const run_tokens *run, OrtKernelContext *context) {
  const size_t room = run->before.elements > run->total ? run->before.elements : run->total;
  const int64_t dimensions[] = {1, 1, (int64_t)room, 1};
  float *present, *spare;
  MB_ORT_TRY(output(context, PRESENT, dimensions, 4, &present));
  MB_ORT_TRY(output(context, SPARE, dimensions, 4, &spare));
  if (present) {
    for (uint32_t i = 0; i < run->total; i++) present[i] = (float)d->next[i];
    memset(present + run->total, 0, (room - run->total) * sizeof *present);
  }
  if (spare) memset(spare, 0, room * sizeof *spare);
  return NULL;
}

static OrtStatus *compute_locked(decoder *d, OrtKernelContext *context, const run_tokens *run) {
  const int64_t dimensions[] = {1, 1, d->vocabulary};
  const float *found = NULL;
  float *logits;
  MB_ORT_TRY(gather_tokens(run, d));
  const mb_status status = feed(d, run->total, &found);
  if (status != MB_OK) return engine_failed(status);
  MB_ORT_TRY(output(context, LOGITS, dimensions, 3, &logits));
  if (logits) memcpy(logits, found, d->vocabulary * sizeof *logits);
  return write_present(d, run, context);
}

static OrtStatusPtr ORT_API_CALL compute(void *op, OrtKernelContext *context) {
  decoder *d = op;
  run_tokens run;
  MB_ORT_TRY(read_inputs(d, context, &run));
  pthread_mutex_lock(&d->lock);
  OrtStatus *status = compute_locked(d, context, &run);
  pthread_mutex_unlock(&d->lock);
  return status;
}

static const char *ORT_API_CALL name(const OrtCustomOp *op) {
  (void)op;
  return "Decoder";
}

static size_t ORT_API_CALL inputs(const OrtCustomOp *op) {
  (void)op;
  return INPUTS;
}

static size_t ORT_API_CALL outputs(const OrtCustomOp *op) {
  (void)op;
  return OUTPUTS;
}

static ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp *op, size_t index) {
  (void)op;
  return index == PAST    ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : index == INDEX ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

static OrtCustomOpInputOutputCharacteristic ORT_API_CALL required(const OrtCustomOp *op, size_t index) {
  (void)op;
  (void)index;
  return INPUT_OUTPUT_REQUIRED;
}

static OrtCustomOpInputOutputCharacteristic ORT_API_CALL output_kind(const OrtCustomOp *op, size_t index) {
  (void)op;
  return index == LOGITS ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

void onnx_decoder_operator_make(const onnx_settings *settings, onnx_decoder_operator *made) {
  made->settings = *settings;
  made->op = (OrtCustomOp){
      MB_OPERATOR_COMMON,         .GetName = name,          .GetInputType = input_type, .CreateKernelV2 = create,
      .KernelComputeV2 = compute, .KernelDestroy = destroy,
  };
  made->op.GetInputTypeCount = inputs;
  made->op.GetInputCharacteristic = required;
  made->op.GetOutputTypeCount = outputs;
  made->op.GetOutputCharacteristic = output_kind;
}

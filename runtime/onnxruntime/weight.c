#include "onnxruntime/weight.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mapped_file.h"
#include "engine/engine.h"
#include "onnxruntime/constant.h"
#include "onnxruntime/open_models.h"

enum { PATH_BYTES = 4096, MAGIC_OFFSET = 8 };

/* A FlatTensor file, so that a mistake in it is an error; in any other file the bytes are taken as they are. */
static bool is_flat_tensor(const char *path) {
  char magic[4];
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const bool read = fd >= 0 && pread(fd, magic, sizeof magic, MAGIC_OFFSET) == (ssize_t)sizeof magic;
  if (fd >= 0) close(fd);
  return read && memcmp(magic, "FH01", sizeof magic) == 0;
}

/* Gives back the pages of ONNX Runtime's own mapping, of which only the header was needed. It is of the file and nobody
 * has written to it, so what is read again comes from the file again; on any other memory this would lose data. */
static void drop_pages(const onnx_constant *input) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)input->bytes / page * page;
  const uintptr_t end = ((uintptr_t)input->bytes + input->size + page - 1) / page * page;
  (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* The engine's own view of that tensor, if ONNX Runtime has mapped it from a weights.ptd; weight->model stays NULL if
 * it has not. */
static OrtStatus *open_in_model(const onnx_constant *input, onnx_weight *weight) {
  char path[PATH_BYTES];
  uint64_t offset;
  if (!mb_mapped_file(input->bytes, input->size, path, sizeof path, &offset) || !is_flat_tensor(path)) return NULL;
  mb_model *model;
  if (open_models_acquire(path, NULL, &model) != MB_OK) return mb_ort_fail(ORT_FAIL, "%s", mb_error_message());
  const mb_index_record *record = mb_model_record_at(model, offset, input->size);
  if (!record) {
    open_models_release(model);
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: %s has no tensor there; they are not of one bundle: build it again",
                       input->name, path);
  }
  if (mb_model_matrix(model, record, &weight->matrix) != MB_OK) {
    open_models_release(model);
    return mb_ort_fail(ORT_FAIL, "%s", mb_error_message());
  }
  weight->model = model;
  drop_pages(input);
  return NULL;
}

static OrtStatus *view(const onnx_constant *input, onnx_blob *blob, mb_matrix *matrix) {
  const char *reason = NULL;
  MB_ORT_TRY(onnx_blob_open(input->name, input->bytes, input->size, blob));
  if (mb_matrix_view(blob->bytes, blob->size, matrix, &reason)) return NULL;
  return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s: %s", input->name, reason);
}

static OrtStatus *bind_codebook(const onnx_constant *input, onnx_weight *weight) {
  mb_matrix codebook;
  MB_ORT_TRY(view(input, &weight->codebook, &codebook));
  const mb_vector_parts *v = &weight->matrix.vector;
  const uint32_t rows = (1u << v->index_bits) + (v->residual_bits > 0 ? 1u << v->residual_bits : 0);
  if (codebook.format != MB_FORMAT_INT8 || codebook.rows != rows || codebook.columns != v->stride)
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: not the codebook that the weight before it needs (%u x %u, int8)",
                       input->name, rows, v->stride);
  mb_vector_bind(&weight->matrix, (const int8_t *)codebook.data);
  return NULL;
}

static OrtStatus *open_all(const OrtKernelInfo *info, size_t *index, onnx_weight *weight) {
  onnx_constant input;
  MB_ORT_TRY(onnx_constant_read(info, (*index)++, &input));
  MB_ORT_TRY(open_in_model(&input, weight));
  if (!weight->model) MB_ORT_TRY(view(&input, &weight->blob, &weight->matrix));
  if (weight->matrix.format == MB_FORMAT_INT8)
    return mb_ort_fail(ORT_INVALID_GRAPH, "%s: a codebook, not weights", input.name);
  if (weight->matrix.format != MB_FORMAT_VECTOR || !(weight->matrix.flags & MB_FLAG_SHARED_CODEBOOK)) return NULL;
  MB_ORT_TRY(onnx_constant_read(info, (*index)++, &input));
  return weight->model ? NULL : bind_codebook(&input, weight);
}

OrtStatus *onnx_weight_open(const OrtKernelInfo *info, size_t *index, onnx_weight *weight) {
  memset(weight, 0, sizeof *weight);
  OrtStatus *status = open_all(info, index, weight);
  if (status) onnx_weight_close(weight);
  return status;
}

void onnx_weight_close(onnx_weight *weight) {
  if (weight->model) open_models_release(weight->model);
  onnx_blob_close(&weight->blob);
  onnx_blob_close(&weight->codebook);
  weight->model = NULL;
}

// MobileBundleBackend: the whole decoder as one ExecuTorch delegate. forward(tokens int64 [1, n], input_pos int64 [1])
// -> logits float32 [1, vocabulary] of the last token. The KV cache lives here; input_pos says how many of its
// positions count, so that a caller may go back, as ExecuTorch's LLM runner does for a new conversation.
//
// Of the weights, ExecuTorch's loader reads the index segment alone: it tells which file weights.ptd is, and the engine
// maps that file as it does everywhere (huge pages, the cache of stored forms, layer by layer). So memory and speed are
// those of mobile-run whatever the loader, File or Mmap.
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/platform/log.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "mobile_bundle/mobile_bundle.h"
extern "C" {
#include "base/error.h"
}
#include "executorch/program.h"
#include "executorch/weights_file.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::ArrayRef;
using executorch::runtime::BackendExecutionContext;
using executorch::runtime::BackendInitContext;
using executorch::runtime::BackendInterface;
using executorch::runtime::CompileSpec;
using executorch::runtime::DelegateHandle;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::Result;
using executorch::runtime::Span;

struct ModelCloser {
  void operator()(mb_model *model) const { mb_model_close(model); }
};
struct SessionCloser {
  void operator()(mb_session *session) const { mb_session_close(session); }
};

struct Decoder {
  std::unique_ptr<mb_model, ModelCloser> model;
  std::unique_ptr<mb_session, SessionCloser> session;  // closed before the model
  std::vector<int32_t> tokens;
};

// The engine's status as ExecuTorch's, with the message for a person in the log.
Error report(mb_status status) {
  ET_LOG(Error, "%s", mb_error_message());
  switch (status) {
    case MB_ERROR_ARGUMENT:
      return Error::InvalidArgument;
    case MB_ERROR_IO:
      return Error::AccessFailed;
    case MB_ERROR_MEMORY:
      return Error::MemoryAllocationFailed;
    default:
      return Error::InvalidExternalData;
  }
}

// An option that the caller gave when loading; false: none of that name. `wrong` is set for one of another type.
template <typename T>
bool option(const BackendInitContext &context, const char *key, T *value, bool *wrong) {
  Result<T> found = context.get_runtime_spec<T>(key);
  if (!found.ok()) {
    if (found.error() != Error::NotFound) {
      (void)mb_fail(MB_ERROR_ARGUMENT, "%s: the option %s has the wrong type", MB_BACKEND_ID, key);
      *wrong = true;
    }
    return false;
  }
  *value = *found;
  return true;
}

// Load-time options: threads, context, prefill_chunk (int), kv_type ("int8", "k8v4", "int4", "f16"), kernels,
// cache_dir, mapping
// ("whole", "layers").
mb_status read_options(const BackendInitContext &context, mb_model_options *model, mb_session_options *session) {
  bool wrong = false;
  const struct {
    const char *key;
    uint32_t *value;
  } numbers[] = {
      {"threads", &session->threads}, {"context", &session->context}, {"prefill_chunk", &session->prefill_chunk}};
  for (const auto &number : numbers) {
    int value = 0;
    if (!option(context, number.key, &value, &wrong)) continue;
    if (value <= 0) return mb_fail(MB_ERROR_ARGUMENT, "the option %s must be above 0, not %d", number.key, value);
    *number.value = static_cast<uint32_t>(value);
  }
  const char *text = nullptr;
  if (option(context, "kv_type", &text, &wrong)) {
    session->kv_type = std::strcmp(text, "f16") == 0    ? MB_KV_F16
                       : std::strcmp(text, "int4") == 0 ? MB_KV_INT4
                       : std::strcmp(text, "k8v4") == 0 ? MB_KV_K8V4
                                                        : MB_KV_INT8;
    if (session->kv_type == MB_KV_INT8 && std::strcmp(text, "int8") != 0)
      return mb_fail(MB_ERROR_ARGUMENT, "the option kv_type is int8, k8v4, int4 or f16, not %s", text);
  }
  if (option(context, "mapping", &text, &wrong)) {
    if (std::strcmp(text, "whole") != 0 && std::strcmp(text, "layers") != 0)
      return mb_fail(MB_ERROR_ARGUMENT, "the option mapping is whole or layers, not %s", text);
    model->mapping = std::strcmp(text, "layers") == 0 ? MB_MAPPING_LAYERS : MB_MAPPING_WHOLE;
  }
  if (option(context, "kernels", &text, &wrong)) model->kernels = text;
  if (option(context, "cache_dir", &text, &wrong)) model->cache_dir = text;
  return wrong ? MB_ERROR_ARGUMENT : MB_OK;
}

// The path of the weights.ptd that the runtime was given, which must be the one that the program was made with.
mb_status weights_path(const BackendInitContext &context, const mb_program &program, char *path, size_t capacity) {
  const auto *data = context.get_named_data_map();
  if (!data) return mb_fail(MB_ERROR_IO, "model.pte needs its weights.ptd: give it to the module as data file");
  auto index = data->get_data(MB_INDEX_KEY);
  if (!index.ok())
    return mb_fail(MB_ERROR_IO, "model.pte needs its weights.ptd: there is no %s in the data files it was given",
                   MB_INDEX_KEY);
  mb_status status = MB_OK;
  mb_index_header header;
  if (index->size() < sizeof header) {
    status = mb_fail(MB_ERROR_FORMAT, "weights.ptd: its index is damaged (sizes): copy it again");
  } else {
    std::memcpy(&header, index->data(), sizeof header);
    if (std::memcmp(header.magic, MB_INDEX_MAGIC, sizeof header.magic) != 0 || header.crc32 != program.index_crc32) {
      status =
          mb_fail(MB_ERROR_FORMAT, "this weights.ptd does not belong to this model.pte: take both from one bundle");
    } else if (!weights_file_path(index->data(), index->size(), path, capacity)) {
      status = mb_fail(MB_ERROR_ARGUMENT,
                       "weights.ptd was given from memory; the decoder maps it: give the module the path of the file");
    }
  }
  index->Free();
  return status;
}

class MobileBundleBackend final : public BackendInterface {
 public:
  bool is_available() const override { return true; }

  Result<DelegateHandle *> init(BackendInitContext &context, FreeableBuffer *processed,
                                ArrayRef<CompileSpec>) const override {
    mb_program program;
    if (processed->size() != sizeof program) {
      ET_LOG(Error, "model.pte is damaged: export it again");
      return Error::InvalidProgram;
    }
    std::memcpy(&program, processed->data(), sizeof program);
    processed->Free();
    if (std::memcmp(program.magic, MB_PROGRAM_MAGIC, sizeof program.magic) != 0 ||
        program.version != MB_PROGRAM_VERSION) {
      (void)mb_fail(MB_ERROR_FORMAT, "model.pte was made by another version of mobile-bundle: export it again");
      ET_LOG(Error, "%s", mb_error_message());
      return Error::DelegateInvalidCompatibility;
    }
    char path[4096];
    mb_model_options model_options = {};
    mb_session_options session_options = {};
    model_options.size = sizeof model_options;
    session_options.size = sizeof session_options;
    mb_status status = read_options(context, &model_options, &session_options);
    if (status == MB_OK) status = weights_path(context, program, path, sizeof path);
    auto decoder = std::unique_ptr<Decoder>(new (std::nothrow) Decoder);
    if (!decoder) return Error::MemoryAllocationFailed;
    mb_model *model = nullptr;
    mb_session *session = nullptr;
    if (status == MB_OK) status = mb_model_open(path, &model_options, &model);
    decoder->model.reset(model);
    if (status == MB_OK && mb_model_get_config(model)->vocabulary != program.vocabulary)
      status = mb_fail(MB_ERROR_FORMAT, "model.pte and weights.ptd have different vocabularies: export it again");
    if (status == MB_OK) status = mb_session_open(model, &session_options, &session);
    decoder->session.reset(session);
    if (status != MB_OK) return report(status);
    return static_cast<DelegateHandle *>(decoder.release());
  }

  Error execute(BackendExecutionContext &, DelegateHandle *handle, Span<EValue *> args) const override {
    auto *decoder = static_cast<Decoder *>(handle);
    if (args.size() < 3 || !args[0]->isTensor() || !args[1]->isTensor() || !args[args.size() - 1]->isTensor())
      return Error::InvalidProgram;
    const Tensor &tokens = args[0]->toTensor(), &input_pos = args[1]->toTensor();
    Tensor &logits = args[args.size() - 1]->toTensor();
    const uint32_t vocabulary = mb_model_get_config(decoder->model.get())->vocabulary;
    if (tokens.scalar_type() != ScalarType::Long || input_pos.scalar_type() != ScalarType::Long ||
        logits.scalar_type() != ScalarType::Float || tokens.numel() < 1 || input_pos.numel() != 1 ||
        logits.numel() != static_cast<ssize_t>(vocabulary)) {
      ET_LOG(Error, "forward takes tokens int64 [1, n] and input_pos int64 [1]");
      return Error::InvalidArgument;
    }
    const int64_t position = input_pos.const_data_ptr<int64_t>()[0];
    if (position < 0 || position > mb_session_position(decoder->session.get())) {
      (void)mb_fail(MB_ERROR_ARGUMENT, "input_pos is %lld, but the cache holds %u tokens: feed what is between",
                    static_cast<long long>(position), mb_session_position(decoder->session.get()));
      return report(MB_ERROR_ARGUMENT);
    }
    const int64_t *ids = tokens.const_data_ptr<int64_t>();
    decoder->tokens.assign(static_cast<size_t>(tokens.numel()), -1);
    // What does not fit 32 bits becomes -1, which the engine refuses as no token.
    std::transform(ids, ids + tokens.numel(), decoder->tokens.begin(),
                   [](int64_t id) { return id == static_cast<int32_t>(id) ? static_cast<int32_t>(id) : -1; });
    const float *found = nullptr;
    mb_status status = mb_session_rewind(decoder->session.get(), static_cast<uint32_t>(position));
    if (status == MB_OK)
      status = mb_session_feed(decoder->session.get(), decoder->tokens.data(), decoder->tokens.size(), &found);
    if (status != MB_OK) return report(status);
    std::memcpy(logits.mutable_data_ptr<float>(), found, vocabulary * sizeof *found);
    return Error::Ok;
  }

  void destroy(DelegateHandle *handle) const override { delete static_cast<Decoder *>(handle); }
};

MobileBundleBackend backend;
const Error registered = executorch::runtime::register_backend({MB_BACKEND_ID, &backend});

}  // namespace

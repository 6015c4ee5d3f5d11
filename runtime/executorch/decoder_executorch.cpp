// mobile-run-executorch: model.pte with weights.ptd, by ExecuTorch's Module.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

extern "C" {
#include "base/error.h"
}
#include "executorch/program.h"
#include "runner/foreign.h"

using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::LoadBackendOptionsMap;

struct decoder {
  foreign_bundle bundle = {};
  BackendOptions<8> options;  // what the module refers to must live as long as it
  LoadBackendOptionsMap options_map;
  std::unique_ptr<Module> module;
  std::vector<int64_t> tokens;
  std::atomic<bool> cancelled{false};
};

const char decoder_runtime[] = "executorch";
const char decoder_program[] = "mobile-run-executorch";
const unsigned decoder_option_set = DECODER_KV | DECODER_KERNELS | DECODER_MAPPING;

namespace {

// ExecuTorch tells its reasons to its log. A runner says one line; the last reason is kept for that.
char last_error[400];

void keep_error(et_timestamp_t, et_pal_log_level_t level, const char *, const char *, size_t, const char *message,
                size_t length) {
  if (level != kError && level != kFatal) return;
  length = length < sizeof last_error - 1 ? length : sizeof last_error - 1;
  std::memcpy(last_error, message, length);
  last_error[length] = 0;
}

// The delegate's own message where it is the delegate that failed, else the runtime's.
mb_status fail(Error error) {
  const char *own = mb_error_message();
  if (own[0]) return error == Error::InvalidArgument ? MB_ERROR_ARGUMENT : MB_ERROR_FORMAT;
  return mb_fail(MB_ERROR_FORMAT, "model.pte: %s (ExecuTorch's error 0x%x)",
                 last_error[0] ? last_error : "the runtime gives no reason", static_cast<unsigned>(error));
}

void clear_errors() {
  last_error[0] = 0;
  (void)mb_fail(MB_OK, "%s", "");
}

Error set_options(const runner_options *o, decoder *d) {
  const mb_session_options &s = d->bundle.options;
  Error error = d->options.set_option("threads", static_cast<int>(s.threads));
  if (error == Error::Ok) error = d->options.set_option("context", static_cast<int>(s.context));
  if (error == Error::Ok) error = d->options.set_option("prefill_chunk", static_cast<int>(s.prefill_chunk));
  const char *kv_type = s.kv_type == MB_KV_F16    ? "f16"
                        : s.kv_type == MB_KV_INT4 ? "int4"
                        : s.kv_type == MB_KV_K8V4 ? "k8v4"
                                                  : "int8";
  if (error == Error::Ok) error = d->options.set_option("kv_type", kv_type);
  if (error == Error::Ok)
    error = d->options.set_option("mapping", o->model.mapping == MB_MAPPING_LAYERS ? "layers" : "whole");
  if (error == Error::Ok && o->model.kernels) error = d->options.set_option("kernels", o->model.kernels);
  if (error == Error::Ok && o->model.cache_dir) error = d->options.set_option("cache_dir", o->model.cache_dir);
  return error == Error::Ok ? d->options_map.set_options(MB_BACKEND_ID, d->options.view()) : error;
}

mb_status load(const runner_options *o, decoder *d) {
  executorch::runtime::runtime_init();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_error, __FILE__));
  mb_status status = foreign_open(o, &d->bundle);
  if (status != MB_OK) return status;
  const std::string bundle = o->bundle, program = bundle + "/model.pte", weights = bundle + "/weights.ptd";
  if (access(program.c_str(), R_OK) != 0)
    return mb_fail(MB_ERROR_IO, "%s is missing: build the bundle with --formats executorch", program.c_str());
  clear_errors();
  Error error = set_options(o, d);
  if (error != Error::Ok) return fail(error);
  d->module = std::make_unique<Module>(program, weights, Module::LoadMode::Mmap);
  error = d->module->load(d->options_map, executorch::runtime::Program::Verification::InternalConsistency);
  if (error == Error::Ok) error = d->module->load_method("forward");
  return error == Error::Ok ? MB_OK : fail(error);
}

}  // namespace

mb_status decoder_open(const runner_options *options, decoder **out) {
  auto d = std::make_unique<decoder>();
  const mb_status status = load(options, d.get());
  *out = status == MB_OK ? d.release() : nullptr;
  return status;
}

void decoder_close(decoder *d) { delete d; }

mb_status decoder_memory(const decoder *d, uint32_t chunk, uint32_t positions, mb_memory *memory) {
  return foreign_memory(&d->bundle, chunk, positions, memory);
}

foreign_bundle *foreign_bundle_of(const decoder *d) { return &const_cast<decoder *>(d)->bundle; }

mb_status foreign_compute(decoder *d, const int32_t *tokens, uint32_t count, const float **logits) {
  clear_errors();
  if (d->cancelled.exchange(false)) return mb_fail(MB_ERROR_CANCELLED, "cancelled");
  d->tokens.assign(tokens, tokens + count);
  int64_t position = d->bundle.position;
  auto result =
      d->module->forward({from_blob(d->tokens.data(), {1, static_cast<int>(count)}, executorch::aten::ScalarType::Long),
                          from_blob(&position, {1}, executorch::aten::ScalarType::Long)});
  if (!result.ok()) return fail(result.error());
  *logits = result->at(0).toTensor().const_data_ptr<float>();
  return MB_OK;
}

// Noticed between chunks.
void decoder_cancel(decoder *d) { d->cancelled = true; }

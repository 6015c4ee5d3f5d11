// mobile_bundle::linear_<format>.out(Tensor x, Tensor weight, int out_features, Tensor? bias=None, *, Tensor(a!) out)
//
// x: float32 (..., columns); weight: uint8 (bytes,), a blob of the operator's format; bias: float32 (rows,);
// out: float32 (..., rows). out_features repeats the blob's rows: the exporter must know the shape without the bytes.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include <optional>

#include "base/sizes.h"
#include "executorch/ops/result.h"
#include "executorch/ops/scratch.h"
#include "executorch/ops/threads.h"
#include "executorch/ops/weight.h"

namespace mobile_bundle {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::tensor_is_default_dim_order;

// What is wrong with the arguments, or nullptr; `w` is the weight's view.
const char *check(mb_format format, const Tensor &x, const Tensor &weight, int64_t out_features,
                  const std::optional<Tensor> &bias, const Tensor &out, mb_matrix *w) {
  const char *reason = nullptr;
  if (!view_weight(weight, w, &reason)) return reason;
  if (w->format != format) return "the weight has another operator's format";
  if (w->rows != out_features) return "the weight's rows are not out_features";
  if (x.scalar_type() != ScalarType::Float || out.scalar_type() != ScalarType::Float) return "x or out is not float32";
  if (!tensor_is_default_dim_order(x) || !tensor_is_default_dim_order(out)) return "x or out is not in row-major order";
  if (x.dim() == 0 || x.size(x.dim() - 1) != static_cast<ssize_t>(w->columns))
    return "the last dimension of x is not the weight's columns";
  if (bias && (bias->scalar_type() != ScalarType::Float || bias->dim() != 1 || bias->numel() != out_features))
    return "the bias is not float32 (out_features,)";
  return nullptr;
}

template <mb_format format>
Tensor &linear(KernelRuntimeContext &context, const Tensor &x, const Tensor &weight, int64_t out_features,
               const std::optional<Tensor> &bias, Tensor &out) {
  mb_matrix w;
  const char *wrong = check(format, x, weight, out_features, bias, out, &w);
  ET_KERNEL_CHECK_MSG(context, wrong == nullptr, InvalidArgument, out, "%s", wrong);
  ET_KERNEL_CHECK_MSG(context, resize_result(x, static_cast<size_t>(x.dim()) - 1, w.rows, out), InvalidArgument, out,
                      "out cannot take the shape of the result");
  const size_t count = static_cast<size_t>(x.numel()) / w.columns;
  if (count == 0) return out;
  const uint64_t bytes = mb_packed_linear_scratch(&w, count);
  void *area = mb_size_fits(bytes) ? scratch(context, static_cast<size_t>(bytes)) : nullptr;
  ET_KERNEL_CHECK_MSG(context, area != nullptr, MemoryAllocationFailed, out, "no memory for the input of the layer");
  const mb_parallel threads = executorch_threads();
  mb_packed_linear(mb_kernels_select(nullptr), &threads, &w, x.const_data_ptr<float>(), count,
                   bias ? bias->const_data_ptr<float>() : nullptr, out.mutable_data_ptr<float>(), area);
  return out;
}

EXECUTORCH_LIBRARY(mobile_bundle, "linear_bf16.out", linear<MB_FORMAT_BF16>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine2.out", linear<MB_FORMAT_AFFINE2>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine3.out", linear<MB_FORMAT_AFFINE3>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine4.out", linear<MB_FORMAT_AFFINE4>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine8.out", linear<MB_FORMAT_AFFINE8>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine5.out", linear<MB_FORMAT_AFFINE5>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_affine6.out", linear<MB_FORMAT_AFFINE6>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_sign1.out", linear<MB_FORMAT_SIGN1>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_trellis2.out", linear<MB_FORMAT_TRELLIS2>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_trellis25.out", linear<MB_FORMAT_TRELLIS25>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_trellis3.out", linear<MB_FORMAT_TRELLIS3>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_ternary2.out", linear<MB_FORMAT_TERNARY2>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_sparse_ternary.out", linear<MB_FORMAT_SPARSE_TERNARY>);
EXECUTORCH_LIBRARY(mobile_bundle, "linear_vector.out", linear<MB_FORMAT_VECTOR>);

}  // namespace
}  // namespace mobile_bundle

// mobile_bundle::embedding.out(Tensor weight, Tensor indices, int embedding_dim, *, Tensor(a!) out)
//
// weight: uint8 (bytes,), a blob of any packed format; indices: int64 (...); out: float32 (..., columns).
// embedding_dim repeats the blob's columns: the exporter must know the shape without the bytes.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include "executorch/ops/result.h"
#include "executorch/ops/weight.h"

namespace mobile_bundle {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::tensor_is_default_dim_order;

// What is wrong with the arguments, or nullptr; `w` is the weight's view.
const char *check(const Tensor &weight, const Tensor &indices, int64_t embedding_dim, const Tensor &out, mb_matrix *w) {
  const char *reason = nullptr;
  if (!view_weight(weight, w, &reason)) return reason;
  if (w->columns != embedding_dim) return "the weight's columns are not embedding_dim";
  if (indices.scalar_type() != ScalarType::Long) return "the indices are not int64";
  if (out.scalar_type() != ScalarType::Float) return "out is not float32";
  if (!tensor_is_default_dim_order(indices) || !tensor_is_default_dim_order(out))
    return "the indices or out are not in row-major order";
  return nullptr;
}

Tensor &embedding(KernelRuntimeContext &context, const Tensor &weight, const Tensor &indices, int64_t embedding_dim,
                  Tensor &out) {
  mb_matrix w;
  const char *wrong = check(weight, indices, embedding_dim, out, &w);
  ET_KERNEL_CHECK_MSG(context, wrong == nullptr, InvalidArgument, out, "%s", wrong);
  ET_KERNEL_CHECK_MSG(context, resize_result(indices, static_cast<size_t>(indices.dim()), w.columns, out),
                      InvalidArgument, out, "out cannot take the shape of the result");
  const int64_t *index = indices.const_data_ptr<int64_t>();
  float *row = out.mutable_data_ptr<float>();
  for (ssize_t n = 0; n < indices.numel(); n++, row += w.columns) {
    ET_KERNEL_CHECK_MSG(context, index[n] >= 0 && index[n] < w.rows, InvalidArgument, out,
                        "index %" PRId64 " is out of range: the weight has %" PRIu32 " rows", index[n], w.rows);
    mb_decode_row(&w, static_cast<uint32_t>(index[n]), row);
  }
  return out;
}

EXECUTORCH_LIBRARY(mobile_bundle, "embedding.out", embedding);

}  // namespace
}  // namespace mobile_bundle

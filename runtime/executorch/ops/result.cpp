#include "executorch/ops/result.h"

#include <executorch/runtime/core/exec_aten/util/tensor_util.h>

namespace mobile_bundle {

bool resize_result(const executorch::aten::Tensor &like, size_t leading, uint32_t width,
                   executorch::aten::Tensor &out) {
  executorch::aten::SizesType sizes[executorch::runtime::kTensorDimensionLimit];
  if (leading >= executorch::runtime::kTensorDimensionLimit) return false;
  for (size_t i = 0; i < leading; i++) sizes[i] = like.sizes()[i];
  sizes[leading] = static_cast<executorch::aten::SizesType>(width);
  return executorch::runtime::resize_tensor(out, {sizes, leading + 1}) == executorch::runtime::Error::Ok;
}

}  // namespace mobile_bundle

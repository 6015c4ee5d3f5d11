#include "executorch/ops/weight.h"

namespace mobile_bundle {

bool view_weight(const executorch::aten::Tensor &weight, mb_matrix *out, const char **reason) {
  if (weight.scalar_type() != executorch::aten::ScalarType::Byte || weight.dim() != 1) {
    *reason = "the weight is not a 1-D uint8 tensor";
    return false;
  }
  return mb_packed_view(weight.const_data_ptr(), weight.nbytes(), out, reason);
}

}  // namespace mobile_bundle

// The weight of an operator: a 1-D uint8 tensor that is exactly one blob of packed_formats.h.
#ifndef MB_EXECUTORCH_OPS_WEIGHT_H
#define MB_EXECUTORCH_OPS_WEIGHT_H

#include <executorch/runtime/core/exec_aten/exec_aten.h>

#include "kernels/packed_linear.h"

namespace mobile_bundle {

// The checked view of a weight tensor; false and a static reason when it is not valid.
bool view_weight(const executorch::aten::Tensor &weight, mb_matrix *out, const char **reason);

}  // namespace mobile_bundle

#endif

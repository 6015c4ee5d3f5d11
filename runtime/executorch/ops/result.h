// The shape of an operator's result.
#ifndef MB_EXECUTORCH_OPS_RESULT_H
#define MB_EXECUTORCH_OPS_RESULT_H

#include <executorch/runtime/core/exec_aten/exec_aten.h>

#include <cstddef>
#include <cstdint>

namespace mobile_bundle {

// Gives `out` the first `leading` sizes of `like` and `width` as the last; false where it cannot take that shape.
bool resize_result(const executorch::aten::Tensor &like, size_t leading, uint32_t width, executorch::aten::Tensor &out);

}  // namespace mobile_bundle

#endif

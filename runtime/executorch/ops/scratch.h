// Memory that an operator needs while it runs.
#ifndef MB_EXECUTORCH_OPS_SCRATCH_H
#define MB_EXECUTORCH_OPS_SCRATCH_H

#include <executorch/runtime/kernel/kernel_includes.h>

namespace mobile_bundle {

// `bytes` bytes aligned to 64, valid until the operator returns: of the program's temporary memory where that has room,
// else of a buffer that this thread keeps and that only grows. nullptr: no memory.
void *scratch(executorch::runtime::KernelRuntimeContext &context, size_t bytes);

}  // namespace mobile_bundle

#endif

// ExecuTorch's threads as the kernels see them.
#ifndef MB_EXECUTORCH_OPS_THREADS_H
#define MB_EXECUTORCH_OPS_THREADS_H

#include "kernels/packed_linear.h"

namespace mobile_bundle {

// Shares work among the threads of ExecuTorch's pool, which XNNPACK uses, too.
mb_parallel executorch_threads();

}  // namespace mobile_bundle

#endif

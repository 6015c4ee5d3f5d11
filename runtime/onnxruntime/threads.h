/* mb_parallel on ONNX Runtime's own threads (the session's intra-op pool). */
#ifndef MB_ONNXRUNTIME_THREADS_H
#define MB_ONNXRUNTIME_THREADS_H

#include "base/parallel.h"
#include "onnxruntime/status.h"

/* Valid while the kernel computes with `context`. Its jobs are told that they are thread 0, whichever runs them. */
mb_parallel onnx_parallel(OrtKernelContext *context);

#endif

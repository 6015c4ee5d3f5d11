/* How kernels share work among threads whoever owns them: the engine's pool, ONNX Runtime's, ExecuTorch's. */
#ifndef MB_BASE_PARALLEL_H
#define MB_BASE_PARALLEL_H

#include <stdint.h>

/* Works on items first..last-1; `thread` is 0..threads-1 and names the scratch space it may use. */
typedef void (*mb_job)(void *context, uint32_t first, uint32_t last, uint32_t thread);

typedef struct {
  /* Runs the job over `items` items, handed out `grain` at a time, and returns when all are done. */
  void (*run)(void *pool, mb_job job, void *context, uint32_t items, uint32_t grain);
  void *pool;
  uint32_t threads;
} mb_parallel;

#endif

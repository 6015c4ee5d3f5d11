#include "onnxruntime/threads.h"

#include <unistd.h>

typedef struct {
  mb_job job;
  void *context;
  uint32_t items, grain;
} shared_job;

static void run_share(void *user, size_t share) {
  const shared_job *shared = user;
  const uint32_t first = (uint32_t)share * shared->grain, left = shared->items - first;
  shared->job(shared->context, first, first + (left < shared->grain ? left : shared->grain), 0);
}

static void run(void *pool, mb_job job, void *context, uint32_t items, uint32_t grain) {
  shared_job shared = {job, context, items, grain};
  const size_t shares = (items + grain - 1) / grain;
  /* As many batches as shares: a thread takes the next share when it has done one, instead of its part beforehand. */
  OrtStatus *status = shares < 2 ? NULL : mb_ort->KernelContext_ParallelFor(pool, run_share, shares, shares, &shared);
  if (status) mb_ort->ReleaseStatus(status); /* it has run nothing */
  if (shares < 2 || status) job(context, 0, items, 0);
}

mb_parallel onnx_parallel(OrtKernelContext *context) {
  /* A kernel is not told how many threads the pool has; the processors are the most that can be of use. */
  const long processors = sysconf(_SC_NPROCESSORS_ONLN);
  return (mb_parallel){.run = run, .pool = context, .threads = processors < 1 ? 1 : (uint32_t)processors};
}

/* A fixed set of threads that share the items of one job after another. The caller's thread works too. */
#ifndef MB_BASE_THREAD_POOL_H
#define MB_BASE_THREAD_POOL_H

#include "base/parallel.h"
#include "mobile_bundle/mobile_bundle.h"

typedef struct mb_pool mb_pool;

mb_status mb_pool_open(uint32_t threads, mb_pool **pool);
void mb_pool_close(mb_pool *pool);
uint32_t mb_pool_threads(const mb_pool *pool);
/* Runs the job over `items` items, handed out `grain` at a time, and returns when all are done. */
void mb_pool_run(mb_pool *pool, mb_job job, void *context, uint32_t items, uint32_t grain);
/* The pool as kernels see it. */
mb_parallel mb_pool_parallel(mb_pool *pool);

#endif

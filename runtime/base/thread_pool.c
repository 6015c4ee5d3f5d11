#include "base/thread_pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/aligned.h"
#include "base/error.h"

/* How often an idle worker looks for the next job before it sleeps: longer than the gaps between the parts of one
 * token, shorter than what a phone's battery would notice between two answers. It soon lets others run in between:
 * where there are fewer free processors than threads, a spinning worker would hold back the very thread that it waits
 * for. */
enum { SPINS_BEFORE_SLEEP = 1000, SPINS_BEFORE_YIELD = 100, STACK_BYTES = 256 * 1024 };

typedef struct {
  mb_pool *pool;
  uint32_t thread;
} worker_argument;

struct mb_pool {
  uint32_t threads;
  pthread_t *handles;
  worker_argument *arguments;
  mb_job job;
  void *context;
  uint32_t items, grain;
  _Alignas(64) atomic_uint next;   /* first item not yet handed out */
  _Alignas(64) atomic_uint ticket; /* counts jobs; a worker that sees a new value has work */
  _Alignas(64) atomic_uint busy;   /* workers that have not finished this job */
  atomic_uint sleeping;
  atomic_bool stop;
  pthread_mutex_t lock;
  pthread_cond_t wake;
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static void work(mb_pool *pool, uint32_t thread) {
  for (;;) {
    uint32_t first = atomic_fetch_add_explicit(&pool->next, pool->grain, memory_order_relaxed);
    if (first >= pool->items) return;
    uint32_t last = pool->items - first < pool->grain ? pool->items : first + pool->grain;
    pool->job(pool->context, first, last, thread);
  }
}

static void *worker(void *argument) {
  mb_pool *pool = ((worker_argument *)argument)->pool;
  uint32_t thread = ((worker_argument *)argument)->thread, seen = 0;
  for (;;) {
    uint32_t ticket = seen;
    for (int spin = 0; spin < SPINS_BEFORE_SLEEP && ticket == seen; spin++) {
      ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
      if (ticket != seen) break;
      if (spin < SPINS_BEFORE_YIELD) {
        relax();
      } else {
        sched_yield();
      }
    }
    if (ticket == seen) {
      pthread_mutex_lock(&pool->lock);
      atomic_fetch_add(&pool->sleeping, 1);
      while ((ticket = atomic_load(&pool->ticket)) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
      atomic_fetch_sub(&pool->sleeping, 1);
      pthread_mutex_unlock(&pool->lock);
    }
    seen = ticket;
    if (atomic_load(&pool->stop)) return NULL;
    work(pool, thread);
    atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_release);
  }
}

static void announce(mb_pool *pool) {
  /* Sequentially consistent on both sides: either the worker sees the new ticket before it sleeps, or we see it sleep.
   */
  atomic_fetch_add(&pool->ticket, 1);
  if (atomic_load(&pool->sleeping)) {
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
  }
}

void mb_pool_run(mb_pool *pool, mb_job job, void *context, uint32_t items, uint32_t grain) {
  if (items == 0) return;
  if (pool->threads == 1 || items <= grain) {
    job(context, 0, items, 0);
    return;
  }
  pool->job = job;
  pool->context = context;
  pool->items = items;
  pool->grain = grain;
  atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
  atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
  announce(pool);
  work(pool, 0);
  for (int spin = 0; atomic_load_explicit(&pool->busy, memory_order_acquire) != 0; spin++) {
    if (spin < SPINS_BEFORE_YIELD) {
      relax();
    } else {
      sched_yield();
    }
  }
}

static void run(void *pool, mb_job job, void *context, uint32_t items, uint32_t grain) {
  mb_pool_run(pool, job, context, items, grain);
}

mb_parallel mb_pool_parallel(mb_pool *pool) {
  return (mb_parallel){.run = run, .pool = pool, .threads = pool->threads};
}

static void stop(mb_pool *pool, uint32_t started) {
  atomic_store(&pool->stop, true);
  announce(pool);
  for (uint32_t i = 0; i < started; i++) pthread_join(pool->handles[i], NULL);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  free(pool->handles);
  free(pool->arguments);
  free(pool);
}

mb_status mb_pool_open(uint32_t threads, mb_pool **out) {
  mb_pool *pool = mb_aligned_malloc(sizeof *pool);
  if (!pool) return mb_fail(MB_ERROR_MEMORY, "no memory for %u threads", threads);
  memset(pool, 0, sizeof *pool);
  pool->threads = threads;
  pool->handles = calloc(threads, sizeof *pool->handles);
  pool->arguments = calloc(threads, sizeof *pool->arguments);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  if (!pool->handles || !pool->arguments) {
    stop(pool, 0);
    return mb_fail(MB_ERROR_MEMORY, "no memory for %u threads", threads);
  }
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  for (uint32_t i = 0; i + 1 < threads; i++) {
    pool->arguments[i] = (worker_argument){pool, i + 1};
    int error = pthread_create(&pool->handles[i], &attributes, worker, &pool->arguments[i]);
    if (error) {
      pthread_attr_destroy(&attributes);
      stop(pool, i);
      return mb_fail(MB_ERROR_MEMORY, "cannot start thread %u of %u: %s: ask for fewer", i + 1, threads,
                     strerror(error));
    }
  }
  pthread_attr_destroy(&attributes);
  *out = pool;
  return MB_OK;
}

void mb_pool_close(mb_pool *pool) {
  if (pool) stop(pool, pool->threads - 1);
}

uint32_t mb_pool_threads(const mb_pool *pool) { return pool->threads; }

#include "executorch/ops/threads.h"

#include <executorch/runtime/kernel/thread_parallel_interface.h>

namespace mobile_bundle {
namespace {

void run(void *, mb_job job, void *context, uint32_t items, uint32_t grain) {
  const auto share = [job, context](int64_t first, int64_t last) {
    job(context, static_cast<uint32_t>(first), static_cast<uint32_t>(last),
        static_cast<uint32_t>(executorch::extension::get_thread_num()));
  };
  // It fails for a range or grain that cannot be alone, which items and grain are not.
  const bool done = executorch::extension::parallel_for(0, items, grain, share);
  ET_DCHECK(done);
  (void)done;
}

}  // namespace

mb_parallel executorch_threads() {
  return {run, nullptr, static_cast<uint32_t>(executorch::extension::get_thread_count())};
}

}  // namespace mobile_bundle

#include "executorch/ops/scratch.h"

#include <memory>
#include <new>

namespace mobile_bundle {
namespace {

constexpr std::align_val_t kAlignment{64};

struct Release {
  void operator()(void *p) const { ::operator delete(p, kAlignment); }
};

struct Buffer {
  std::unique_ptr<void, Release> memory;
  size_t bytes = 0;
};

thread_local Buffer buffer;

}  // namespace

void *scratch(executorch::runtime::KernelRuntimeContext &context, size_t bytes) {
  const auto temporary = context.allocate_temp(bytes, static_cast<size_t>(kAlignment));
  if (temporary.ok()) return *temporary;
  if (buffer.bytes < bytes) {
    buffer = {};
    buffer.memory.reset(::operator new(bytes, kAlignment, std::nothrow));
    if (buffer.memory) buffer.bytes = bytes;
  }
  return buffer.memory.get();
}

}  // namespace mobile_bundle

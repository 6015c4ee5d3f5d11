// ExecuTorch's operators called without a program, for the sanitizers: test_operators SEED OPERATOR BLOB
// The blob, as it is and damaged, lies in a buffer of exactly its size; there is temporary memory, too little, or none.
#include <executorch/extension/tensor/tensor_ptr_maker.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "mobile_bundle/packed_formats.h"

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::MemoryAllocator;
using executorch::runtime::OpFunction;

namespace {

constexpr int kMostVectors = 35;
constexpr int kDamaged = 400;

struct Operators {
  OpFunction linear, embedding;
};

struct Results {
  std::vector<float> products, rows;
};

// Both operators on one weight; nothing where one of them refuses it.
std::optional<Results> run(const Operators &operators, const mb_blob_header &shape, const std::vector<uint8_t> &blob,
                           size_t offset, int vectors, MemoryAllocator *temporary) {
  const int rows = static_cast<int>(shape.rows), columns = static_cast<int>(shape.columns);
  auto *area = static_cast<uint8_t *>(std::aligned_alloc(64, (offset + blob.size() + 63) / 64 * 64));
  // The end of the buffer is the end of the blob, so that the sanitizer sees what is read behind it.
  std::unique_ptr<uint8_t[]> exact;
  uint8_t *at = area + offset;
  if (offset == 0) {
    exact = std::make_unique<uint8_t[]>(blob.size());
    at = exact.get();
  }
  std::memcpy(at, blob.data(), blob.size());
  std::vector<float> x(static_cast<size_t>(vectors * columns));
  std::vector<int64_t> indices(static_cast<size_t>(rows));
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50) / 25;
  for (size_t i = 0; i < indices.size(); i++) indices[i] = static_cast<int64_t>(i);
  Results results{std::vector<float>(static_cast<size_t>(vectors * rows)),
                  std::vector<float>(static_cast<size_t>(rows * columns))};

  auto x_tensor = from_blob(x.data(), {vectors, columns});
  auto weight = from_blob(at, {static_cast<int>(blob.size())}, ScalarType::Byte);
  auto index_tensor = from_blob(indices.data(), {rows}, ScalarType::Long);
  auto products = from_blob(results.products.data(), {vectors, rows});
  auto decoded = from_blob(results.rows.data(), {rows, columns});
  KernelRuntimeContext linear_context(nullptr, temporary), embedding_context(nullptr, temporary);
  {
    EValue x_value(*x_tensor), w_value(*weight), width(static_cast<int64_t>(rows)), bias, out(*products);
    EValue *stack[] = {&x_value, &w_value, &width, &bias, &out};
    operators.linear(linear_context, {stack, 5});
  }
  {
    EValue w_value(*weight), i_value(*index_tensor), width(static_cast<int64_t>(columns)), out(*decoded);
    EValue *stack[] = {&w_value, &i_value, &width, &out};
    operators.embedding(embedding_context, {stack, 4});
  }
  std::free(area);
  if (linear_context.failure_state() != Error::Ok || embedding_context.failure_state() != Error::Ok) return {};
  return results;
}

bool same(const std::vector<float> &a, const std::vector<float> &b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

int fail(const char *what) {
  std::fprintf(stderr, "FAILED: %s\n", what);
  return 1;
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 4) return fail("usage: test_operators SEED OPERATOR BLOB");
  executorch::runtime::runtime_init();
  std::mt19937 random(static_cast<uint32_t>(std::stoul(arguments[1])));
  const std::string name = std::string("mobile_bundle::") + arguments[2] + ".out";
  const auto linear = executorch::runtime::get_op_function_from_registry(name.c_str());
  const auto embedding = executorch::runtime::get_op_function_from_registry("mobile_bundle::embedding.out");
  if (!linear.ok() || !embedding.ok()) return fail("an operator is not registered");
  const Operators operators{*linear, *embedding};
  std::ifstream file(arguments[3], std::ios::binary);
  const std::vector<uint8_t> blob{std::istreambuf_iterator<char>(file), {}};
  mb_blob_header shape;
  if (blob.size() < sizeof shape) return fail("no blob");
  std::memcpy(&shape, blob.data(), sizeof shape);

  std::vector<uint8_t> pool(1 << 20), little(256);
  for (int vectors : {1, 2, kMostVectors}) {
    const auto expected = run(operators, shape, blob, 0, vectors, nullptr);
    if (!expected) return fail("a valid blob is refused");
    for (size_t offset : {4u, 16u, 48u}) {
      for (std::vector<uint8_t> *memory : {&pool, &little}) {
        MemoryAllocator temporary(static_cast<uint32_t>(memory->size()), memory->data());
        const auto result = run(operators, shape, blob, offset, vectors, &temporary);
        if (!result || !same(result->products, expected->products) || !same(result->rows, expected->rows))
          return fail("where the blob lies changes the result");
      }
    }
    if (run(operators, shape, blob, 2, vectors, nullptr)) return fail("a blob at an odd place is not refused");
  }
  int refused = 0;
  for (int n = 0; n < kDamaged; n++) {
    std::vector<uint8_t> bad = blob;
    if (n % 4 == 0) {
      bad.resize(random() % blob.size());
    } else if (n % 4 == 1) {
      for (size_t i = sizeof shape; i < bad.size(); i++) bad[i] = static_cast<uint8_t>(random());
    } else {
      bad[random() % sizeof shape] ^= static_cast<uint8_t>(1u << random() % 8);
    }
    refused += !run(operators, shape, bad, 0, 3, nullptr);
  }
  std::printf("%d of %d damaged blobs refused\n", refused, kDamaged);
  return refused > kDamaged / 2 ? 0 : fail("damaged blobs are not refused");
}

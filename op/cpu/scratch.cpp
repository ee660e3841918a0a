#include "op/cpu/scratch.h"

#include <cstdlib>
#include <memory>

namespace flashonnx::cpu {
namespace {

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

struct Buffer {
  std::unique_ptr<float, Free> memory;
  int64_t floats = 0;
};

}  // namespace

float* thread_scratch(int64_t floats) {
  thread_local Buffer buffer;
  if (floats > buffer.floats || buffer.memory == nullptr) {
    constexpr size_t kAlignment = 64;
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) / kAlignment + 1) * kAlignment;
    buffer.memory.reset();
    buffer.memory.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    buffer.floats = buffer.memory != nullptr ? floats : 0;
  }
  return buffer.memory.get();
}

}  // namespace flashonnx::cpu

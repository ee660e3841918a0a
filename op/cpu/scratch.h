// Memory that a thread keeps from one tile to the next.
#pragma once

#include <cstdint>

namespace flashonnx::cpu {

// At least `floats` floats, aligned to 64 bytes, valid until this thread's next call; null if there is no memory.
float* thread_scratch(int64_t floats);

}  // namespace flashonnx::cpu

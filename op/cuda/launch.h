// Kernel launches whose failures come back as a Status.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "op/core/status.h"

namespace flashonnx::cuda {

inline Status to_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // what can be cleared must not fail the next call
  return Status::error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Whether a kernel may start while the one ahead of it in the stream still runs; it must then wait for it itself.
enum class Overlap { kNone, kWithPrevious };

struct LaunchShape {
  int64_t blocks;  // none: there is nothing to do
  int threads;
  int64_t shared_bytes = 0;  // dynamic
  int64_t shared_limit = 0;  // what other launches of the kernel may ask for, if that is more
  Overlap overlap = Overlap::kNone;
};

// Lets a kernel have more shared memory than every kernel may.
inline Status allow_shared_memory(const void* kernel, const LaunchShape& shape) {
  constexpr int64_t kDefaultSharedBytes = 48 * 1024;
  const int64_t limit = std::max(shape.shared_bytes, shape.shared_limit);
  if (limit <= kDefaultSharedBytes) return {};
  return to_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit)),
                   "setting a kernel's shared memory");
}

template <typename Argument>
Status launch(void (*kernel)(Argument), const LaunchShape& shape, cudaStream_t stream,
              const std::decay_t<Argument>& argument) {
  if (shape.blocks == 0) return {};
  if (shape.blocks > 0x7FFFFFFF) return Status::error("the problem needs more than 2^31 - 1 blocks of CUDA threads");
  const auto* const function = reinterpret_cast<const void*>(kernel);
  const Status allowed = allow_shared_memory(function, shape);
  if (!allowed.ok()) return allowed;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.overlap == Overlap::kWithPrevious ? 1 : 0;
  void* arguments[] = {const_cast<std::decay_t<Argument>*>(&argument)};
  return to_status(cudaLaunchKernelExC(&config, function, arguments), "launching a kernel");
}

}  // namespace flashonnx::cuda

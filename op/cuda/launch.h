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

// A shape as the CUDA runtime takes it.
class LaunchConfig {
 public:
  LaunchConfig(const LaunchShape& shape, cudaStream_t stream) {
    config_.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config_.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config_.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config_.stream = stream;
    config_.attrs = attributes_;
    if (shape.overlap == Overlap::kWithPrevious) {
      add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;

  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchAttributeValue& add(cudaLaunchAttributeID id) {
    cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
    attribute.id = id;
    return attribute.val;
  }

  cudaLaunchAttribute attributes_[2]{};
  cudaLaunchConfig_t config_{};
};

// Lets a kernel have what is beyond the defaults of its shape.
inline Status allow(const void* kernel, const LaunchShape& shape) {
  constexpr int64_t kDefaultSharedBytes = 48 * 1024;
  cudaError_t error = cudaSuccess;
  const int64_t limit = std::max(shape.shared_bytes, shape.shared_limit);
  if (limit > kDefaultSharedBytes) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limit));
  }
  return to_status(error, "setting a kernel's shared memory");
}

template <typename Argument>
Status launch(void (*kernel)(Argument), const LaunchShape& shape, cudaStream_t stream,
              const std::decay_t<Argument>& argument) {
  if (shape.blocks == 0) return {};
  if (shape.blocks > 0x7FFFFFFF) return Status::error("the problem needs more than 2^31 - 1 blocks of CUDA threads");
  const auto* const function = reinterpret_cast<const void*>(kernel);
  const Status allowed = allow(function, shape);
  if (!allowed.ok()) return allowed;
  const LaunchConfig config(shape, stream);
  void* arguments[] = {const_cast<std::decay_t<Argument>*>(&argument)};
  return to_status(cudaLaunchKernelExC(config.get(), function, arguments), "launching a kernel");
}

}  // namespace flashonnx::cuda

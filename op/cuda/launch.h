// Kernel launches whose failures come back as a Status.
#pragma once

#include <cuda_runtime.h>

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

// Launches `blocks` blocks with `shared_bytes` of dynamic shared memory; no blocks: nothing to do.
template <typename Argument>
Status launch(void (*kernel)(Argument), int64_t blocks, int threads, int64_t shared_bytes, cudaStream_t stream,
              const std::decay_t<Argument>& argument, Overlap overlap = Overlap::kNone) {
  if (blocks == 0) return {};
  if (blocks > 0x7FFFFFFF) return Status::error("the problem needs more than 2^31 - 1 blocks of CUDA threads");
  constexpr int64_t kDefaultSharedBytes = 48 * 1024;
  if (shared_bytes > kDefaultSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return to_status(error, "setting a kernel's shared memory");
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = overlap == Overlap::kWithPrevious ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap == Overlap::kWithPrevious ? 1 : 0;
  void* arguments[] = {const_cast<std::decay_t<Argument>*>(&argument)};
  return to_status(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments),
                   "launching a kernel");
}

}  // namespace flashonnx::cuda

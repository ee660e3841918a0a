// GPUs of this machine, and launches for callers who bring no workspace.
#include <cuda_runtime_api.h>

#include <string>

#include "op/cuda/flash_attention.h"
#include "op/cuda/launch.h"

namespace flashonnx::cuda {
namespace {

// Makes a device the current one, and the caller's again at the end.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess) error_ = cudaSetDevice(ordinal);
  }
  ~CurrentDevice() {
    if (error_ == cudaSuccess) cudaSetDevice(previous_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  Status status() const { return to_status(error_, "choosing a CUDA device"); }

 private:
  int previous_ = 0;
  cudaError_t error_ = cudaSuccess;
};

// Device memory of a stream's pool: free for later work of the stream as soon as what uses it is queued.
class PoolMemory {
 public:
  explicit PoolMemory(cudaStream_t stream) : stream_(stream) {}
  ~PoolMemory() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }
  PoolMemory(const PoolMemory&) = delete;
  PoolMemory& operator=(const PoolMemory&) = delete;

  Status allocate(int64_t bytes) {
    if (bytes == 0) return {};
    return to_status(cudaMallocAsync(&data_, static_cast<size_t>(bytes), stream_),
                     (std::to_string(bytes) + " bytes of workspace").c_str());
  }
  void* data() const { return data_; }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

}  // namespace

bool is_built() { return true; }

Status query_device(int ordinal, Device* device) {
  int major = 0, minor = 0, shared_bytes = 0, l2_bytes = 0;
  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } questions[] = {{cudaDevAttrComputeCapabilityMajor, &major},
                   {cudaDevAttrComputeCapabilityMinor, &minor},
                   {cudaDevAttrMultiProcessorCount, &device->multiprocessors},
                   {cudaDevAttrMaxSharedMemoryPerBlockOptin, &shared_bytes},
                   {cudaDevAttrL2CacheSize, &l2_bytes}};
  for (const auto& question : questions) {
    const cudaError_t error = cudaDeviceGetAttribute(question.value, question.attribute, ordinal);
    if (error != cudaSuccess) return to_status(error, "asking for a CUDA device");
  }
  device->ordinal = ordinal;
  device->compute_capability = 10 * major + minor;
  device->shared_memory_bytes = shared_bytes;
  device->l2_bytes = l2_bytes;
  return {};
}

Status query_current_device(Device* device) {
  int ordinal = 0;
  const cudaError_t error = cudaGetDevice(&ordinal);
  return error == cudaSuccess ? query_device(ordinal, device) : to_status(error, "asking for the current CUDA device");
}

Status run_with_pool(const Problem& problem, int ordinal, void* stream) {
  const CurrentDevice current(ordinal);
  if (!current.status().ok()) return current.status();
  Device device;
  Status status = query_device(ordinal, &device);
  if (!status.ok()) return status;
  const Plan chosen = plan(problem, device);
  if (!chosen.status.ok()) return chosen.status;
  PoolMemory workspace(static_cast<cudaStream_t>(stream));
  status = workspace.allocate(chosen.workspace_bytes);
  return status.ok() ? run(problem, chosen, workspace.data(), stream) : status;
}

}  // namespace flashonnx::cuda

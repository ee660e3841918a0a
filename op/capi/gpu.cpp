#include "op/capi/gpu.h"

#include <cuda_runtime_api.h>

#include "op/cuda/flash_attention.h"

namespace flashonnx::capi {
namespace {

Status to_status(cudaError_t error, const std::string& what) {
  return error == cudaSuccess ? Status() : Status::error(what + ": " + cudaGetErrorString(error));
}

// Makes a device the current one, and the caller's again at the end.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index) {
    error_ = cudaGetDevice(&previous_);
    if (error_ == cudaSuccess) error_ = cudaSetDevice(index);
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

cuda::Plan make_plan(const Problem& problem, int index) {
  cuda::Device device;
  const Status status = cuda::query_device(index, &device);
  if (status.ok()) return cuda::plan(problem, device);
  cuda::Plan none;
  none.status = status;
  return none;
}

}  // namespace

Status run_on_gpu(const Problem& problem, const flashonnx_device& device) {
  const CurrentDevice current(device.index);
  if (!current.status().ok()) return current.status();
  const cuda::Plan plan = make_plan(problem, device.index);
  if (!plan.status.ok()) return plan.status;

  const auto stream = static_cast<cudaStream_t>(device.stream);
  void* workspace = nullptr;
  if (plan.workspace_bytes > 0) {
    const Status status = to_status(cudaMallocAsync(&workspace, static_cast<size_t>(plan.workspace_bytes), stream),
                                    std::to_string(plan.workspace_bytes) + " bytes of workspace");
    if (!status.ok()) return status;
  }
  const Status status = cuda::run(problem, plan, workspace, stream);
  const Status freed = to_status(workspace != nullptr ? cudaFreeAsync(workspace, stream) : cudaSuccess, "workspace");
  return status.ok() ? freed : status;
}

Status plan_on_gpu(const Problem& problem, const flashonnx_device& device, std::string* text) {
  const cuda::Plan plan = make_plan(problem, device.index);
  if (!plan.status.ok()) return plan.status;
  *text = std::string(cuda::name(plan.kernel)) + ", " + std::to_string(plan.q_tile) + " x " +
          std::to_string(plan.key_tile) + " tiles";
  if (plan.splits > 1) *text += ", keys in " + std::to_string(plan.splits) + " parts";
  *text += " (" + plan.reason + ")";
  return {};
}

}  // namespace flashonnx::capi

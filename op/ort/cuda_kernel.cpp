#include "op/ort/cuda_kernel.h"

#include "op/cuda/flash_attention.h"
#include "op/ort/kernel.h"
#include "op/ort/workspace.h"

namespace flashonnx::ort {
namespace {

// Queues the work on ONNX Runtime's stream and returns: no wait, no memory but from ONNX Runtime's arena, so that a run
// can be captured in a CUDA graph. Runs may overlap: nothing changes after init.
class CudaKernel {
 public:
  explicit CudaKernel(const OrtApi* api) : api_(api) {}
  CudaKernel(const CudaKernel&) = delete;
  CudaKernel& operator=(const CudaKernel&) = delete;
  ~CudaKernel() {
    if (allocator_ != nullptr) api_->ReleaseAllocator(allocator_);
  }

  Status init(const OrtKernelInfo* info) {
    Status status = NodeInfo::read(api_, info, &node_);
    if (status.ok()) status = from_ort(api_, api_->KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
    if (status.ok()) status = from_ort(api_, api_->AllocatorGetInfo(allocator_, &memory_));
    int ordinal = 0;
    if (status.ok()) status = from_ort(api_, api_->MemoryInfoGetId(memory_, &ordinal));
    if (status.ok()) status = cuda::query_device(ordinal, &device_);
    return status.ok() ? cuda::check_device(device_) : status;
  }

  Status compute(OrtKernelContext* context) const {
    Problem problem;
    Status status = node_.make_problem(api_, context, &problem);
    if (!status.ok()) return status;
    const cuda::Plan plan = cuda::plan(problem, device_);
    if (!plan.status.ok()) return plan.status;
    void* stream = nullptr;
    status = from_ort(api_, api_->KernelContext_GetGPUComputeStream(context, &stream));
    if (!status.ok()) return status;
    Workspace workspace(api_);
    status = workspace.allocate_on_stream(context, memory_, plan.workspace_bytes);
    return status.ok() ? cuda::run(problem, plan, workspace.data(), stream) : status;
  }

  const OrtApi* api() const { return api_; }
  const NodeInfo& node() const { return node_; }

 private:
  const OrtApi* api_;
  NodeInfo node_;
  OrtAllocator* allocator_ = nullptr;      // the provider's own,
  const OrtMemoryInfo* memory_ = nullptr;  // which tells its GPU
  cuda::Device device_;
};

}  // namespace

Kernel cuda_kernel() { return kernel_for<CudaKernel>("CUDAExecutionProvider"); }

}  // namespace flashonnx::ort

#include "op/ort/cpu_kernel.h"

#include "op/cpu/flash_attention.h"
#include "op/ort/kernel.h"
#include "op/ort/workspace.h"

namespace flashonnx::ort {
namespace {

// ONNX Runtime's own thread pool.
class OrtParallel final : public Parallel {
 public:
  OrtParallel(const OrtApi* api, OrtKernelContext* context) : api_(api), context_(context) {}

  void run(int64_t count, Task task, void* task_context) const override {
    Call call{task, task_context};
    if (count > 1 && status_.ok()) {
      // A batch count of 0 lets every index be a task of its own.
      const auto total = static_cast<size_t>(count);
      status_ = from_ort(api_, api_->KernelContext_ParallelFor(context_, &Call::invoke, total, 0, &call));
    } else if (count == 1 && status_.ok()) {
      task(task_context, 0);
    }
  }

  // The first failure of the pool itself; nothing runs after it.
  const Status& status() const { return status_; }

 private:
  struct Call {
    Task task;
    void* context;
    static void invoke(void* call, size_t index) {
      const Call& self = *static_cast<Call*>(call);
      self.task(self.context, static_cast<int64_t>(index));
    }
  };

  const OrtApi* api_;
  OrtKernelContext* context_;
  mutable Status status_;
};

class CpuKernel {
 public:
  explicit CpuKernel(const OrtApi* api) : api_(api) {}
  CpuKernel(const CpuKernel&) = delete;
  CpuKernel& operator=(const CpuKernel&) = delete;
  ~CpuKernel() {
    if (memory_ != nullptr) api_->ReleaseMemoryInfo(memory_);
  }

  Status init(const OrtKernelInfo* info) {
    Status status = NodeInfo::read(api_, info, &node_);
    if (!status.ok()) return status;
    return from_ort(api_, api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
  }

  Status compute(OrtKernelContext* context) const {
    Problem problem;
    Status status = node_.make_problem(api_, context, &problem);
    if (status.ok()) status = check_values(problem);
    if (!status.ok()) return status;
    const cpu::Plan plan = cpu::plan(problem);
    if (!plan.status.ok()) return plan.status;
    Workspace workspace(api_);
    status = workspace.allocate(context, memory_, plan.workspace_bytes);
    if (!status.ok()) return status;
    const OrtParallel parallel(api_, context);
    status = cpu::run(problem, plan, workspace.data(), parallel);
    return status.ok() ? parallel.status() : status;
  }

  const OrtApi* api() const { return api_; }
  const NodeInfo& node() const { return node_; }

 private:
  const OrtApi* api_;
  NodeInfo node_;
  OrtMemoryInfo* memory_ = nullptr;
};

}  // namespace

Kernel cpu_kernel() { return kernel_for<CpuKernel>("CPUExecutionProvider"); }

}  // namespace flashonnx::ort

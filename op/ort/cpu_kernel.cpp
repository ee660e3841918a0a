#include "op/ort/cpu_kernel.h"

#include <string>

#include "op/cpu/flash_attention.h"
#include "op/ort/node.h"

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

// Memory from ONNX Runtime's allocator, aligned as the kernels want it, for the length of one run.
class Workspace {
 public:
  explicit Workspace(const OrtApi* api) : api_(api) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  ~Workspace() {
    if (block_ != nullptr) (void)from_ort(api_, api_->AllocatorFree(allocator_, block_));
    if (allocator_ != nullptr) api_->ReleaseAllocator(allocator_);
  }

  Status allocate(OrtKernelContext* context, const OrtMemoryInfo* memory, int64_t bytes) {
    if (bytes == 0) return {};
    Status status = from_ort(api_, api_->KernelContext_GetAllocator(context, memory, &allocator_));
    if (!status.ok()) return status;
    return from_ort(api_, api_->AllocatorAlloc(allocator_, static_cast<size_t>(bytes) + kAlignment, &block_));
  }

  void* data() const {
    const auto address = reinterpret_cast<uintptr_t>(block_);
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr uintptr_t kAlignment = 64;

  const OrtApi* api_;
  OrtAllocator* allocator_ = nullptr;
  void* block_ = nullptr;
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

  std::string where() const {
    return std::string(contract::kOpType) + (node_.name().empty() ? "" : " '" + node_.name() + "'");
  }

  const OrtApi* api() const { return api_; }

 private:
  const OrtApi* api_;
  NodeInfo node_;
  OrtMemoryInfo* memory_ = nullptr;
};

OrtStatusPtr ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  std::string where = contract::kOpType;
  const Status status = guarded([&] {
    auto fresh = std::make_unique<CpuKernel>(api);
    Status made = fresh->init(info);
    where = fresh->where();
    if (made.ok()) *kernel = fresh.release();
    return made;
  });
  return to_ort(api, where, status);
}

OrtStatusPtr ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const CpuKernel& self = *static_cast<CpuKernel*>(kernel);
  const Status status = guarded([&] { return self.compute(context); });
  return status.ok() ? nullptr : to_ort(self.api(), self.where(), status);
}

void ORT_API_CALL destroy(void* kernel) { delete static_cast<CpuKernel*>(kernel); }

OrtMemType ORT_API_CALL input_memory(const OrtCustomOp*, size_t) { return OrtMemTypeDefault; }

}  // namespace

Kernel cpu_kernel() { return {"CPUExecutionProvider", create, compute, destroy, input_memory}; }

}  // namespace flashonnx::ort

// Scratch memory from ONNX Runtime's own allocator, for the length of one run.
#pragma once

#include "op/ort/api.h"

namespace flashonnx::ort {

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
    Status status = find_allocator(context, memory, bytes);
    if (!status.ok() || bytes == 0) return status;
    return from_ort(api_, api_->AllocatorAlloc(allocator_, padded(bytes), &block_));
  }

  // Of a GPU, for work that is queued and not waited for: the memory belongs to the run's stream, so that, freed while
  // the stream has yet to get there, it goes to later work of that stream only.
  Status allocate_on_stream(OrtKernelContext* context, const OrtMemoryInfo* memory, int64_t bytes) {
    Status status = find_allocator(context, memory, bytes);
    if (!status.ok() || bytes == 0) return status;
    return from_ort(api_, api_->KernelContext_GetScratchBuffer(context, memory, padded(bytes), &block_));
  }

  // Aligned as any kernel wants it.
  void* data() const {
    const auto address = reinterpret_cast<uintptr_t>(block_);
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  static constexpr uintptr_t kAlignment = 256;
  static size_t padded(int64_t bytes) { return static_cast<size_t>(bytes) + kAlignment; }

  Status find_allocator(OrtKernelContext* context, const OrtMemoryInfo* memory, int64_t bytes) {
    if (bytes == 0) return {};
    return from_ort(api_, api_->KernelContext_GetAllocator(context, memory, &allocator_));
  }

  const OrtApi* api_;
  OrtAllocator* allocator_ = nullptr;
  void* block_ = nullptr;
};

}  // namespace flashonnx::ort

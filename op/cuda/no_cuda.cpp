// What a build without nvcc answers in place of the kernels.
#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {
namespace {

Status no_cuda() { return Status::error("this library was built without CUDA"); }

}  // namespace

bool is_built() { return false; }
Status query_device(int, Device*) { return no_cuda(); }
Status query_current_device(Device*) { return no_cuda(); }
Status run(const Problem&, const Plan&, void*, void*) { return no_cuda(); }
Status run_with_pool(const Problem&, int, void*) { return no_cuda(); }

}  // namespace flashonnx::cuda

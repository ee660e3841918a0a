#include "op/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "op/cuda/launch.h"

namespace flashonnx::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Asked of the driver at run time: the library must also load where there is none.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<Encode>(function);
}

CUtensorMapDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case DType::kFloat16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  }
}

}  // namespace

Status make_tensor_map(const Input& view, DType dtype, const TensorSizes& tensor, int box_rows, CUtensorMap* map) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return Status::error("the CUDA driver has no cuTensorMapEncodeTiled (needs CUDA 12 or newer)");

  constexpr int64_t kAnyStride = 16;  // of a dimension of size 1, whose own may be anything
  const int64_t element_bytes = size_of(dtype);
  const auto bytes = [&](int64_t size, int64_t stride) {
    return static_cast<cuuint64_t>(size == 1 ? kAnyStride : stride * element_bytes);
  };
  const cuuint64_t sizes[4] = {static_cast<cuuint64_t>(tensor.columns), static_cast<cuuint64_t>(tensor.rows),
                               static_cast<cuuint64_t>(tensor.heads), static_cast<cuuint64_t>(tensor.batches)};
  const cuuint64_t strides[3] = {bytes(tensor.rows, view.row_stride), bytes(tensor.heads, view.head_stride),
                                 bytes(tensor.batches, view.batch_stride)};
  const cuuint32_t box[4] = {static_cast<cuuint32_t>(kBoxRowBytes / element_bytes), static_cast<cuuint32_t>(box_rows),
                             1, 1};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  const CUresult result = encode(map, element_type(dtype), 4, const_cast<void*>(view.data), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return Status::error("cuTensorMapEncodeTiled failed with CUDA error " + std::to_string(static_cast<int>(result)));
  }
  return {};
}

}  // namespace flashonnx::cuda

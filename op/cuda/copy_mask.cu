// A copy of attn_mask with rows at multiples of 16 bytes, for the sm_90 kernel, whose copy engine reads no others.
#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/tiles.h"
#include "op/cuda/workspace.h"

namespace flashonnx::cuda {
namespace {

constexpr int kThreads = 256;

struct MaskCopy {
  Mask from;
  uint4* to;  // contiguous
  int64_t heads, rows;
  int64_t vectors;      // of 16 bytes, of a row
  int64_t all_vectors;  // of every row, head and batch entry
};

// A vector a thread: what lies behind a row's end is filled with zeros.
template <typename Value>
__global__ void __launch_bounds__(kThreads) copy_mask(const __grid_constant__ MaskCopy copy) {
  constexpr int kWidth = 16 / sizeof(Value);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= copy.all_vectors) return;
  const int64_t row = index / copy.vectors;
  const int64_t first = (index - row * copy.vectors) * kWidth;
  const int64_t head = row / copy.rows;
  const Value* from = static_cast<const Value*>(copy.from.data) + head / copy.heads * copy.from.batch_stride +
                      head % copy.heads * copy.from.head_stride + row % copy.rows * copy.from.row_stride +
                      first * copy.from.key_stride;
  alignas(16) Value values[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    values[i] = first + i < copy.from.length ? from[i * copy.from.key_stride] : Value{0};
  }
  copy.to[index] = *reinterpret_cast<const uint4*>(values);
}

}  // namespace

Status run_copy_mask(const Problem& problem, void* data, cudaStream_t stream) {
  const TensorSizes sizes = mask_sizes(problem);
  const int64_t bytes = size_of(problem.mask.dtype);
  const int64_t vectors = aligned_mask_columns(problem) * bytes / 16;
  const int64_t all_vectors = sizes.batches * sizes.heads * sizes.rows * vectors;
  const MaskCopy copy{problem.mask, static_cast<uint4*>(data), sizes.heads, sizes.rows, vectors, all_vectors};
  const int64_t blocks = (all_vectors + kThreads - 1) / kThreads;
  return launch(bytes == 1 ? copy_mask<uint8_t> : copy_mask<uint16_t>, {blocks, kThreads}, stream, copy);
}

}  // namespace flashonnx::cuda

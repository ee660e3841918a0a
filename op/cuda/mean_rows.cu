// mean_without_keys: rows of Y without any allowed key, whose lse is -infinity, become the mean of V. It follows every
// kernel, so that none of them has to know; where no row lacks keys it reads lse and no more.
#include "op/core/key_range.h"
#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/ptx/dependent_launch.cuh"
#include "op/cuda/ptx/element.cuh"

namespace flashonnx::cuda {
namespace {

constexpr int kThreads = 256;  // and rows of a block
constexpr int kColumns = 32;   // summed at a time, by so many groups of threads:
constexpr int kGroups = kThreads / kColumns;

// Of one column over every key, in all threads of its groups.
template <typename T>
__device__ Accumulator<T> mean_of_column(const T* column, int64_t row_stride, int64_t keys, bool exists) {
  __shared__ Accumulator<T> sums[kGroups][kColumns];
  const int lane = threadIdx.x % kColumns, group = threadIdx.x / kColumns;
  Accumulator<T> sum = 0;
  if (exists) {
    for (int64_t j = group; j < keys; j += kGroups) sum += to_float(column[j * row_stride]);
  }
  __syncthreads();  // the column before has been read
  sums[group][lane] = sum;
  __syncthreads();
  sum = 0;
  for (int g = 0; g < kGroups; ++g) sum += sums[g][lane];
  return sum / static_cast<Accumulator<T>>(keys);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) write_mean_rows(const __grid_constant__ Problem problem) {
  __shared__ bool lacks_keys[kThreads];
  const int64_t chunks = (problem.q_sequence_length + kThreads - 1) / kThreads;
  const int64_t first = blockIdx.x % chunks * kThreads;
  const int64_t row = blockIdx.x / chunks;  // of (batch, head)
  const int64_t rows = min(problem.q_sequence_length - first, static_cast<int64_t>(kThreads));

  wait_for_previous_kernel();
  const float* lse = problem.lse + row * problem.q_sequence_length + first;
  const bool lacks = threadIdx.x < rows && lse[threadIdx.x] == -INFINITY;
  if (!__syncthreads_or(lacks)) return;
  lacks_keys[threadIdx.x] = lacks;

  const int batch = static_cast<int>(row / problem.q_num_heads);
  const int64_t head = row % problem.q_num_heads;
  const int64_t keys = valid_keys(problem, batch);
  if (keys == 0) return;
  const int64_t kv_head = head / (problem.q_num_heads / problem.kv_num_heads);
  const T* v = static_cast<const T*>(problem.v.data) + batch * problem.v.batch_stride + kv_head * problem.v.head_stride;
  T* y = static_cast<T*>(problem.y.data) + batch * problem.y.batch_stride + head * problem.y.head_stride +
         first * problem.y.row_stride;
  for (int64_t block = 0; block < problem.v_head_size; block += kColumns) {
    const int64_t column = block + threadIdx.x % kColumns;
    const bool exists = column < problem.v_head_size;
    const T mean = static_cast<T>(mean_of_column(v + column, problem.v.row_stride, keys, exists));
    if (!exists) continue;
    for (int64_t i = threadIdx.x / kColumns; i < rows; i += kGroups) {
      if (lacks_keys[i]) y[i * problem.y.row_stride + column] = mean;
    }
  }
}

}  // namespace

Status run_mean_rows(const Problem& problem, cudaStream_t stream) {
  const int64_t chunks = (problem.q_sequence_length + kThreads - 1) / kThreads;
  LaunchShape shape{problem.batch_size * problem.q_num_heads * chunks, kThreads};
  shape.overlap = Overlap::kWithPrevious;
  return with_element(problem.dtype,
                      [&](auto element) { return launch(write_mean_rows<decltype(element)>, shape, stream, problem); });
}

}  // namespace flashonnx::cuda

// Attention without tiles or tensor cores: one block a query row, for what the faster kernels do not take (float and
// double, any head size and alignment, qk_matmul_output). Memory is O(head_size): keys pass through in chunks.
#include "op/core/key_range.h"
#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/scores.cuh"

namespace flashonnx::cuda {
namespace {

constexpr int kThreads = 128;  // and keys of a chunk

template <typename A>
__device__ A block_reduce(A value, A* shared, bool maximum) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(~0u, value, offset);
    value = maximum ? max(value, other) : value + other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) value = maximum ? max(value, shared[warp]) : value + shared[warp];
  return value;
}

template <typename T>
struct NaiveRow {
  using A = Accumulator<T>;

  const Problem& problem;
  const int batch, head, query;
  A* const q;       // shared: head_size
  A* const output;  // shared: v_head_size
  A* const p;       // shared: kThreads
  A* const reduce;  // shared: one a warp
  const KeyLimits limits;

  const T* k;
  const T* v;
  int64_t total;

  __device__ void run() {
    const int kv_head = head / static_cast<int>(problem.q_num_heads / problem.kv_num_heads);
    k = static_cast<const T*>(problem.k.data) + batch * problem.k.batch_stride + kv_head * problem.k.head_stride;
    v = static_cast<const T*>(problem.v.data) + batch * problem.v.batch_stride + kv_head * problem.v.head_stride;
    total = problem.past_sequence_length + problem.kv_sequence_length;
    const T* source = static_cast<const T*>(problem.q.data) + batch * problem.q.batch_stride +
                      head * problem.q.head_stride + query * problem.q.row_stride;
    for (int64_t d = threadIdx.x; d < problem.head_size; d += kThreads) q[d] = to_float(source[d]);
    for (int64_t d = threadIdx.x; d < problem.v_head_size; d += kThreads) output[d] = 0;
    __syncthreads();

    A max = -INFINITY, sum = 0;
    const bool all_keys = problem.qk_matmul_output != nullptr;
    const KeyRange range = all_keys ? KeyRange{0, total} : limits.row(query);
    for (int64_t chunk = range.begin; chunk < range.end; chunk += kThreads) attend(chunk, max, sum);
    finish(max, sum);
  }

 private:
  // In four sums, which round less than one.
  __device__ A dot(int64_t key) const {
    const T* row = k + key * problem.k.row_stride;
    A sums[4] = {};
    int64_t d = 0;
    for (; d + 4 <= problem.head_size; d += 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] += q[d + i] * to_float(row[d + i]);
    }
    for (; d < problem.head_size; ++d) sums[0] += q[d] * to_float(row[d]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  __device__ bool allowed(int64_t key) const {
    const KeyRange range = limits.row(query);
    return key >= range.begin && key < range.end;
  }

  // The score that the softmax sees; on the way there, what qk_matmul_output asks for.
  __device__ A score(int64_t key) const {
    A value = dot(key) * static_cast<A>(problem.scale);
    write_qk(QkOutput::kScores, key, value);
    if (problem.softcap > 0) {
      value = static_cast<A>(problem.softcap) * tanh(value / static_cast<A>(problem.softcap));
    }
    write_qk(QkOutput::kAfterSoftcap, key, value);
    value = allowed(key) ? biased(value, key) : static_cast<A>(-INFINITY);
    write_qk(QkOutput::kAfterMask, key, value);
    return value;
  }

  __device__ A biased(A value, int64_t key) const {
    if (problem.mask.data != nullptr) {
      const int64_t place = batch * problem.mask.batch_stride + head * problem.mask.head_stride +
                            query * problem.mask.row_stride + key * problem.mask.key_stride;
      if (problem.mask.dtype == DType::kBool) {
        if (!static_cast<const bool*>(problem.mask.data)[place]) return -INFINITY;
      } else {
        value += to_float(static_cast<const T*>(problem.mask.data)[place]);
      }
    }
    if (problem.alibi_slopes != nullptr) {
      const A slope = problem.alibi_slopes[batch * problem.alibi_batch_stride + head];
      value -= slope * fabs(static_cast<A>(query + limits.offset - key));
    }
    return value;
  }

  __device__ void write_qk(QkOutput mode, int64_t key, A value) const {
    if (problem.qk_matmul_output == nullptr || problem.qk_matmul_output_mode != mode) return;
    const int64_t row = (batch * problem.q_num_heads + head) * problem.q_sequence_length + query;
    static_cast<T*>(problem.qk_matmul_output)[row * total + key] = static_cast<T>(value);
  }

  __device__ void attend(int64_t chunk, A& max, A& sum) {
    const int64_t key = chunk + threadIdx.x;
    const A s = key < total ? score(key) : static_cast<A>(-INFINITY);
    const A next = ::max(max, block_reduce(s, reduce, true));
    const A base = next == -INFINITY ? 0 : next;
    const A correction = exp(max - base);
    p[threadIdx.x] = exp(s - base);
    sum = sum * correction + block_reduce(p[threadIdx.x], reduce, false);  // which also makes p visible
    max = next;
    const int64_t keys = min(static_cast<int64_t>(kThreads), limits.keys - chunk);  // padding may hold NaN
    for (int64_t d = threadIdx.x; d < problem.v_head_size; d += kThreads) {
      A value = 0;  // of the chunk alone, for the same reason
      for (int64_t j = 0; j < keys; ++j) value += p[j] * to_float(v[(chunk + j) * problem.v.row_stride + d]);
      output[d] = output[d] * correction + value;
    }
    __syncthreads();
  }

  __device__ void finish(A max, A sum) {
    A lse = -INFINITY, factor = 0;
    if (max != -INFINITY) {
      factor = 1;
      A top = max;
      if (problem.sinks != nullptr) {
        const A sink = problem.sinks[head];
        top = ::max(max, sink);
        factor = exp(max - top);
        sum = sum * factor + exp(sink - top);
      }
      lse = top + log(sum);
      factor /= sum;
    }
    T* y = static_cast<T*>(problem.y.data) + batch * problem.y.batch_stride + head * problem.y.head_stride +
           query * problem.y.row_stride;
    for (int64_t d = threadIdx.x; d < problem.v_head_size; d += kThreads) y[d] = static_cast<T>(output[d] * factor);
    if (problem.lse != nullptr && threadIdx.x == 0) {
      problem.lse[(batch * problem.q_num_heads + head) * problem.q_sequence_length + query] = static_cast<float>(lse);
    }
    if (problem.qk_matmul_output == nullptr || problem.qk_matmul_output_mode != QkOutput::kProbabilities) return;
    for (int64_t key = threadIdx.x; key < total; key += kThreads) {
      const A probability = max == -INFINITY ? static_cast<A>(0) : exp(score(key) - max) * factor;
      write_qk(QkOutput::kProbabilities, key, probability);
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) naive_forward(const __grid_constant__ Problem problem) {
  extern __shared__ char dynamic_shared[];
  auto* shared = reinterpret_cast<Accumulator<T>*>(dynamic_shared);
  const int64_t index = blockIdx.x;
  const int query = static_cast<int>(index % problem.q_sequence_length);
  const int head = static_cast<int>(index / problem.q_sequence_length % problem.q_num_heads);
  const int batch = static_cast<int>(index / problem.q_sequence_length / problem.q_num_heads);
  auto* const output = shared + problem.head_size;
  auto* const p = output + problem.v_head_size;
  NaiveRow<T> row{problem, batch, head, query, shared, output, p, p + kThreads, key_limits(problem, batch)};
  row.run();
}

}  // namespace

int64_t naive_shared_bytes(const Problem& problem) {
  const int64_t size = problem.dtype == DType::kDouble ? 8 : 4;
  return (problem.head_size + problem.v_head_size + kThreads + kThreads / 32) * size;
}

Status run_naive(const Problem& problem, cudaStream_t stream) {
  const int64_t blocks = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  const LaunchShape shape{blocks, kThreads, naive_shared_bytes(problem)};
  return with_element(problem.dtype,
                      [&](auto element) { return launch(naive_forward<decltype(element)>, shape, stream, problem); });
}

}  // namespace flashonnx::cuda

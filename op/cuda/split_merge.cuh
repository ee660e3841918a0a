// What the split kernel is given, and the kernel that merges the parts of several blocks.
#pragma once

#include "op/cuda/output.cuh"
#include "op/cuda/ptx/dependent_launch.cuh"
#include "op/cuda/tiles.h"

namespace flashonnx::cuda {

// Rows of all (batch, q head, query), splits apart; an unnormalised output and its statistics in natural units.
struct SplitPartials {
  float* output = nullptr;  // (split, row, partial_columns); null: one split, results go to Y
  float2* state = nullptr;  // (split, row): m, l
};

struct SplitArguments {
  Problem problem;
  SplitPartials partials;
  int splits;
  int row_tiles;        // per key/value head
  int partial_columns;  // v_head_size, rounded up to 4
  bool vector_input;
  bool modified;  // scores need more than scale and an interval
};

constexpr int kMergeThreads = 128;

// One block a row: the parts of all splits, first to last within a warp and then warp by warp, to Y and lse.
template <typename Element>
__global__ void __launch_bounds__(kMergeThreads) merge_splits(const __grid_constant__ SplitArguments arguments) {
  constexpr int kWarps = kMergeThreads / 32;
  __shared__ float factors[kMostSplits];
  __shared__ float4 sums[kWarps][32];

  wait_for_previous_kernel();
  const Problem& problem = arguments.problem;
  const SplitPartials& partials = arguments.partials;
  const int64_t all_rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  const int64_t place = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;

  // Every warp works out the statistics for itself, to meet the others only once.
  float max = -INFINITY;
  for (int split = lane; split < arguments.splits; split += 32) {
    max = fmaxf(max, partials.state[split * all_rows + place].x);
  }
  for (int offset = 16; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, offset));
  float sum = 0;
  for (int split = lane; split < arguments.splits; split += 32) {
    const float2 state = partials.state[split * all_rows + place];
    const float factor = max == -INFINITY ? 0.f : exp2f((state.x - max) * kLog2E);
    sum += factor * state.y;
    if (warp == 0) factors[split] = factor;
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);

  const int head = static_cast<int>(place / problem.q_sequence_length % problem.q_num_heads);
  const int batch = static_cast<int>(place / problem.q_sequence_length / problem.q_num_heads);
  const int query = static_cast<int>(place % problem.q_sequence_length);
  const RowResult result = finish_row(max, sum, 1.f, problem.sinks != nullptr ? problem.sinks + head : nullptr);
  const OutputRow<Element> target = output_row<Element>(problem, batch, head, query);
  if (threadIdx.x == 0 && target.lse != nullptr) *target.lse = result.lse;

  const int columns = static_cast<int>(problem.v_head_size);
  for (int first = 0; first < columns; first += 4 * 32) {
    const int column = first + 4 * lane;
    __syncthreads();  // the factors are there, and nobody reads the last columns' sums any more
    float4 value = make_float4(0, 0, 0, 0);
    if (column < columns) {
#pragma unroll 8
      for (int split = warp; split < arguments.splits; split += kWarps) {
        const float4 part = *reinterpret_cast<const float4*>(
            partials.output + (split * all_rows + place) * arguments.partial_columns + column);
        const float factor = factors[split];
        value.x += factor * part.x;
        value.y += factor * part.y;
        value.z += factor * part.z;
        value.w += factor * part.w;
      }
    }
    sums[warp][lane] = value;
    __syncthreads();
    if (warp != 0) continue;
    for (int w = 1; w < kWarps; ++w) {
      const float4 other = sums[w][lane];
      value.x += other.x;
      value.y += other.y;
      value.z += other.z;
      value.w += other.w;
    }
    const float values[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (column + c < columns) target.y[column + c] = static_cast<Element>(values[c] * result.factor);
    }
  }
}

}  // namespace flashonnx::cuda

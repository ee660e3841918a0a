// What the split kernel is given, and how the parts that warps and blocks make of a row become one.
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
  int group;            // query heads of a key/value head
  int rows;             // query rows of all of them
  int row_tiles;        // of these
  int partial_columns;  // v_head_size, rounded up to 4
  bool vector_input;
  bool modified;  // scores need more than scale and an interval
};

// What some of the keys make of a row, of four of its columns.
constexpr int kPartColumns = 4;
struct RowPart {
  float2 state;  // m, l
  float4 output;
};
__device__ inline RowPart no_keys() { return {make_float2(-INFINITY, 0), make_float4(0, 0, 0, 0)}; }

__device__ inline float4 scaled(float factor, const float4& a) {
  return make_float4(factor * a.x, factor * a.y, factor * a.z, factor * a.w);
}
__device__ inline float4 sum(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// One part of all, in order of their numbers. `read(i)` fetches part i from where it lies; kAtOnce are on their way at
// a time.
template <int kAtOnce, typename Read>
__device__ inline RowPart join_parts(int count, Read read) {
  RowPart joined = no_keys();
  for (int first = 0; first < count; first += kAtOnce) {
    RowPart parts[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      parts[i] = first + i < count ? read(first + i) : no_keys();
    }
    float max = joined.state.x;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) max = fmaxf(max, parts[i].state.x);
    const float base = max == -INFINITY ? 0.f : max;  // no key allowed so far: every factor is exp2(-inf) = 0

    const float correction = exp2f((joined.state.x - base) * kLog2E);
    joined.state = make_float2(max, correction * joined.state.y);
    joined.output = scaled(correction, joined.output);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float factor = exp2f((parts[i].state.x - base) * kLog2E);
      joined.state.y += factor * parts[i].state.y;
      joined.output = sum(joined.output, scaled(factor, parts[i].output));
    }
  }
  return joined;
}

// Normalises what all keys made of a row's columns from `column` on, to Y and lse.
template <typename Element>
__device__ inline void store_joined(const Problem& problem, int batch, int head, int query, int column,
                                    const RowPart& part) {
  const float* sink = problem.sinks != nullptr ? problem.sinks + head : nullptr;
  const RowResult result = finish_row(part.state.x, part.state.y, 1.f, sink);
  const OutputRow<Element> target = output_row<Element>(problem, batch, head, query);
  if (column == 0 && target.lse != nullptr) *target.lse = result.lse;
  const float values[kPartColumns] = {part.output.x, part.output.y, part.output.z, part.output.w};
#pragma unroll
  for (int c = 0; c < kPartColumns; ++c) {
    if (column + c < problem.v_head_size) target.y[column + c] = static_cast<Element>(values[c] * result.factor);
  }
}

constexpr int kMergeThreads = 128;  // few enough that registers beside the split kernel's suffice

// One block a row: groups of threads, one thread for four columns, join every so manyth part; the first group joins
// what the groups have.
template <typename Element>
__global__ void __launch_bounds__(kMergeThreads, 6) merge_splits(const __grid_constant__ SplitArguments arguments) {
  __shared__ RowPart group_parts[kMergeThreads];

  const Problem& problem = arguments.problem;
  const SplitPartials& partials = arguments.partials;
  const int64_t all_rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  const int64_t place = blockIdx.x;
  const int threads = arguments.partial_columns / kPartColumns;  // of a group
  const int groups = min(kMergeThreads / threads, arguments.splits);
  const int group = static_cast<int>(threadIdx.x) / threads;
  const int column = static_cast<int>(threadIdx.x) % threads * kPartColumns;

  wait_for_previous_kernel();
  let_next_kernel_start();
  if (group < groups) {
    group_parts[threadIdx.x] = join_parts<8>((arguments.splits - group + groups - 1) / groups, [&](int i) {
      const int64_t part = (group + i * groups) * all_rows + place;
      return RowPart{partials.state[part],
                     *reinterpret_cast<const float4*>(partials.output + part * arguments.partial_columns + column)};
    });
  }
  __syncthreads();
  if (group != 0) return;
  const RowPart joined = join_parts<8>(groups, [&](int i) { return group_parts[i * threads + threadIdx.x]; });
  const int head = static_cast<int>(place / problem.q_sequence_length % problem.q_num_heads);
  const int batch = static_cast<int>(place / problem.q_sequence_length / problem.q_num_heads);
  const int query = static_cast<int>(place % problem.q_sequence_length);
  store_joined<Element>(problem, batch, head, query, column, joined);
}

}  // namespace flashonnx::cuda

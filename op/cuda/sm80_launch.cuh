// The host side of the sm_80 kernels: tiles of query rows, and few rows with the keys split.
#pragma once

#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/sm80.cuh"
#include "op/cuda/split.cuh"

namespace flashonnx::cuda {

inline bool vector_input(const Problem& problem) {
  const int64_t size = size_of(problem.dtype);
  return aligned_rows(problem.q, problem.head_size, size) && aligned_rows(problem.k, problem.head_size, size) &&
         aligned_rows(problem.v, problem.v_head_size, size);
}

template <typename T>
Status launch_sm80(const Problem& problem, const LaunchContext& context) {
  static_assert(sizeof(Sm80Shared<T>) == sm80_shared_bytes(sizeof(typename T::Element), T::kHeadSize));
  Sm80Arguments arguments{};
  arguments.problem = problem;
  arguments.order = tile_order(problem, T::kQTile, context.plan.device.l2_bytes, nullptr);
  arguments.vector_input = vector_input(problem);
  arguments.vector_output = aligned_rows(problem.y, problem.v_head_size, size_of(problem.dtype));
  return launch(sm80_forward<T>, {arguments.order.tiles, T::kThreads, sizeof(Sm80Shared<T>)}, context.stream,
                arguments);
}

template <typename Element, int kHeadSize>
Status run_sm80(const Problem& problem, const LaunchContext& context) {
  if (needs_modified_scores(problem)) return launch_sm80<Sm80Tile<Element, kHeadSize, true>>(problem, context);
  return launch_sm80<Sm80Tile<Element, kHeadSize, false>>(problem, context);
}

template <typename Element, int kHeadSize>
Status run_split(const Problem& problem, const LaunchContext& context) {
  using T = SplitTile<Element, kHeadSize>;
  static_assert(sizeof(SplitShared<T>) == split_shared_bytes(sizeof(Element), kHeadSize, kMostSplitWarps));
  const int warps = context.plan.key_tile / T::kKeys;
  const int64_t rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  SplitArguments arguments{};
  arguments.problem = problem;
  arguments.splits = context.plan.splits;
  arguments.group = static_cast<int>(problem.group_size());
  arguments.rows = static_cast<int>(problem.group_size() * problem.q_sequence_length);
  arguments.row_tiles = (arguments.rows + T::kRows - 1) / T::kRows;
  arguments.vector_input = vector_input(problem);
  arguments.modified = needs_modified_scores(problem);
  if (arguments.splits > 1) {
    // Outputs first: they are read 16 bytes at a time.
    arguments.partial_columns = static_cast<int>(split_partial_columns(problem));
    arguments.partials.output = static_cast<float*>(context.scratch);
    arguments.partials.state =
        reinterpret_cast<float2*>(arguments.partials.output + arguments.splits * rows * arguments.partial_columns);
  }
  LaunchShape split{problem.batch_size * problem.kv_num_heads * arguments.row_tiles * arguments.splits, 32 * warps};
  split.shared_bytes = split_shared_bytes(sizeof(Element), kHeadSize, warps);
  split.shared_limit = context.plan.device.shared_memory_bytes;
  split.overlap = Overlap::kWithPrevious;
  const Status status = launch(split_forward<T>, split, context.stream, arguments);
  if (!status.ok() || arguments.splits == 1) return status;
  LaunchShape merge{rows, kMergeThreads};
  merge.overlap = Overlap::kWithPrevious;
  return launch(merge_splits<Element>, merge, context.stream, arguments);
}

}  // namespace flashonnx::cuda

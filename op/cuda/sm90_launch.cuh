// The host side of the sm_90 kernel.
#pragma once

#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/sm90.cuh"
#include "op/cuda/tensor_map.h"

namespace flashonnx::cuda {

template <typename T>
Status launch_sm90(const Problem& problem, const LaunchContext& context) {
  Sm90Arguments arguments{};
  arguments.problem = problem;
  int* counter = uniform_keys(problem) ? nullptr : static_cast<int*>(context.scratch);
  arguments.order = tile_order(problem, T::kQTile, context.plan.device.l2_bytes, counter);
  const int64_t keys = problem.total_sequence_length();
  const Status q = make_tensor_map(problem.q, problem.dtype, problem.batch_size, problem.q_num_heads,
                                   problem.q_sequence_length, problem.head_size, T::kGroupRows, &arguments.q);
  if (!q.ok()) return q;
  const Status k = make_tensor_map(problem.k, problem.dtype, problem.batch_size, problem.kv_num_heads, keys,
                                   problem.head_size, T::kKeyTile, &arguments.k);
  if (!k.ok()) return k;
  const Status v = make_tensor_map(problem.v, problem.dtype, problem.batch_size, problem.kv_num_heads, keys,
                                   problem.v_head_size, T::kKeyTile, &arguments.v);
  if (!v.ok()) return v;
  if (counter != nullptr) {
    const Status cleared =
        to_status(cudaMemsetAsync(counter, 0, sizeof(int), context.stream), "clearing the tile counter");
    if (!cleared.ok()) return cleared;
  }
  const int blocks = std::min(arguments.order.tiles, context.plan.device.multiprocessors);
  constexpr int64_t kAlignment = 1024;
  return launch(sm90_forward<T>, blocks, T::kThreads, sizeof(Sm90Shared<T>) + kAlignment, context.stream, arguments);
}

template <typename Element, int kHeadSize, int kVHeadSize, Sm90Use kUse>
Status launch_sm90_for(const Problem& problem, const LaunchContext& context) {
  constexpr TileShape kTile = sm90_tile({kHeadSize, kVHeadSize}, kUse);
  constexpr bool kModified = kUse == Sm90Use::kModified;
  return launch_sm90<Sm90Tile<Element, kHeadSize, kVHeadSize, kTile.q_tile, kTile.key_tile, kModified>>(problem,
                                                                                                        context);
}

template <typename Element, int kHeadSize, int kVHeadSize>
Status run_sm90(const Problem& problem, const LaunchContext& context) {
  switch (sm90_use(problem)) {
    case Sm90Use::kUniform:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kUniform>(problem, context);
    case Sm90Use::kRanged:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kRanged>(problem, context);
    case Sm90Use::kShortRanged:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kShortRanged>(problem, context);
    default:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kModified>(problem, context);
  }
}

}  // namespace flashonnx::cuda

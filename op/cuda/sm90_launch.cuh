// The host side of the sm_90 kernel.
#pragma once

#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/sm90.cuh"
#include "op/cuda/tensor_map.h"

namespace flashonnx::cuda {

template <typename T>
Status make_mask(const Problem& problem, Sm90Mask* mask) {
  const Mask& source = problem.mask;
  if (!source || source.length == 0) return {};  // length 0: no key is allowed
  mask->by_rows = source.row_stride != 0;
  mask->by_heads = source.head_stride != 0;
  mask->by_batches = source.batch_stride != 0;
  mask->panel_columns = static_cast<int>(kBoxRowBytes / size_of(source.dtype));
  mask->panels = (T::kKeyTile + mask->panel_columns - 1) / mask->panel_columns;
  return make_tensor_map(mask_view(source), source.dtype, mask_sizes(problem), mask->by_rows ? T::kQTile : 1,
                         &mask->map);
}

template <typename T>
Status make_tensor_maps(const Problem& problem, Sm90Arguments* arguments) {
  const int64_t batches = problem.batch_size, keys = problem.total_sequence_length();
  const TensorSizes q_sizes{batches, problem.q_num_heads, problem.q_sequence_length, problem.head_size};
  const TensorSizes k_sizes{batches, problem.kv_num_heads, keys, problem.head_size};
  const TensorSizes v_sizes{batches, problem.kv_num_heads, keys, problem.v_head_size};
  const Status q = make_tensor_map(problem.q, problem.dtype, q_sizes, T::kGroupRows, &arguments->q);
  if (!q.ok()) return q;
  const Status k = make_tensor_map(problem.k, problem.dtype, k_sizes, T::kKeyTile, &arguments->k);
  if (!k.ok()) return k;
  const Status v = make_tensor_map(problem.v, problem.dtype, v_sizes, T::kKeyTile, &arguments->v);
  if (!v.ok()) return v;
  return make_mask<T>(problem, &arguments->mask);
}

template <typename T>
Status launch_sm90(const Problem& problem, const LaunchContext& context) {
  Sm90Arguments arguments{};
  arguments.problem = problem;
  arguments.rules = score_rules(problem);
  int* counter = context.plan.draws_tiles ? static_cast<int*>(context.scratch) : nullptr;
  arguments.order = tile_order(problem, T::kQTile, context.plan.device.l2_bytes, counter);
  const Status mapped = make_tensor_maps<T>(problem, &arguments);
  if (!mapped.ok()) return mapped;
  if (counter != nullptr) {
    const Status cleared =
        to_status(cudaMemsetAsync(counter, 0, sizeof(int), context.stream), "clearing the tile counter");
    if (!cleared.ok()) return cleared;
  }
  const int blocks = std::min(arguments.order.tiles, context.plan.device.multiprocessors);
  return launch(sm90_forward<T>, {blocks, T::kThreads, sizeof(Sm90Shared<T>)}, context.stream, arguments);
}

template <typename Element, int kHeadSize, int kVHeadSize, Sm90Use kUse>
Status launch_sm90_for(const Problem& problem, const LaunchContext& context) {
  constexpr TileShape kTile = sm90_tile({kHeadSize, kVHeadSize}, kUse);
  // Uses that differ in nothing but the tile share a kernel where that is the same.
  constexpr Sm90Use kKernel = modifies_scores(kUse) ? kUse : Sm90Use::kTall;
  return launch_sm90<Sm90Tile<Element, kHeadSize, kVHeadSize, kTile.q_tile, kTile.key_tile, kKernel>>(problem, context);
}

template <typename Element, int kHeadSize, int kVHeadSize>
Status run_sm90(const Problem& problem, const LaunchContext& context) {
  switch (sm90_use(problem, context.plan.device.multiprocessors)) {
    case Sm90Use::kTall:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kTall>(problem, context);
    case Sm90Use::kShort:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kShort>(problem, context);
    case Sm90Use::kFloatMask:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kFloatMask>(problem, context);
    case Sm90Use::kBoolMask:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kBoolMask>(problem, context);
    default:
      return launch_sm90_for<Element, kHeadSize, kVHeadSize, Sm90Use::kModified>(problem, context);
  }
}

}  // namespace flashonnx::cuda

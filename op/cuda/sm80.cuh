// Forward attention for compute capability 8.0 and up: four warps of mma.sync, K and V brought by cp.async.
//
// K of the next block travels while this block's P V runs, and V while its Q K^T does; two blocks per multiprocessor
// hide what is left. After Dao, "FlashAttention-2" (arXiv 2307.08691), section 3.3: each warp has whole rows, so that
// warps exchange nothing.
#pragma once

#include "op/cuda/key_blocks.cuh"
#include "op/cuda/output.cuh"
#include "op/cuda/shared_tile.cuh"
#include "op/cuda/tile_order.h"

namespace flashonnx::cuda {

template <typename Element_, int kHeadSize_, bool kModified_>
struct Sm80Tile {
  using Element = Element_;
  static constexpr int kHeadSize = kHeadSize_;  // head_size and v_head_size, or the next size there is a kernel for
  static constexpr bool kModified = kModified_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kQTile = sm80_tile(sizeof(Element), kHeadSize).q_tile;
  static constexpr int kKeyTile = sm80_tile(sizeof(Element), kHeadSize).key_tile;
  static constexpr int kFragments = kQTile / (16 * kWarps);  // of 16 rows, per warp
  // The next K could be asked for before the softmax. Where a warp has 32 rows there are no registers to do that with.
  static constexpr bool kSoftmaxFirst = kFragments > 1;
};

template <typename T>
struct Sm80Shared {
  SharedTile<typename T::Element, T::kQTile, T::kHeadSize> q;
  SharedTile<typename T::Element, T::kKeyTile, T::kHeadSize> k, v;
};

struct Sm80Arguments {
  Problem problem;
  TileOrder order;
  bool vector_input;
  bool vector_output;
};

template <typename T>
struct Sm80Block {
  using Element = typename T::Element;
  static constexpr int kScores = T::kKeyTile / 2;
  static constexpr int kOutputs = T::kHeadSize / 2;
  // Of Q K^T: the compiler would fetch operands of all of them ahead, into registers that there are not.
  static constexpr int kStepsAtOnce = sizeof(Element) == 4 ? 4 : T::kHeadSize / 16;
  static constexpr bool kSubtractFirst = T::kModified || sizeof(Element) == 4;

  const Sm80Arguments& arguments;
  Sm80Shared<T>& shared;
  const Tile tile;
  const int warp_row;  // first row of this warp in the tile

  float scores[T::kFragments][kScores];
  float output[T::kFragments][kOutputs];
  RowState states[T::kFragments][2];
  KeyLimits limits;
  LaneAddress q_lane, k_lane, v_lane;  // where this lane reads Q, K and V
  float unit;                          // natural logarithms per score unit

  __device__ void run() {
    const Problem& problem = arguments.problem;
    limits = key_limits(problem, tile.batch);
    unit = T::kModified ? score_rules(problem).unit : static_cast<float>(problem.scale);
    start_rows();
    const KeyBlocks blocks = key_blocks<T::kQTile, T::kKeyTile>(problem, limits, tile.block);
    if (blocks.begin < blocks.end) attend(blocks);
    finish();
  }

 private:
  __device__ int query(int fragment, int r) const {
    return tile.block * T::kQTile + warp_row + 16 * fragment + threadIdx.x % 32 / 4 + 8 * r;
  }

  __device__ void start_rows() {
#pragma unroll
    for (int f = 0; f < T::kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) output[f][i] = 0;
#pragma unroll
      for (int r = 0; r < 2; ++r) states[f][r] = RowState{};  // nvcc 13.0 leaves an aggregate's nested arrays at zero
    }
  }

  __device__ void attend(const KeyBlocks& blocks) {
    const Problem& problem = arguments.problem;
    const int kv_head = tile.head / static_cast<int>(problem.q_num_heads / problem.kv_num_heads);
    const Copier k = copier(problem.k, kv_head, problem.head_size);
    const Copier v = copier(problem.v, kv_head, problem.v_head_size);
    copier(problem.q, tile.head, problem.head_size)
        .load(shared.q, tile.block * T::kQTile, static_cast<int>(problem.q_sequence_length));
    load_keys(shared.k, k, blocks.end - 1);
    q_lane = shared.q.lane_of_a(warp_row);
    k_lane = shared.k.lane_of_rows();
    v_lane = shared.v.lane_of_columns();
#pragma unroll 1
    for (int n = blocks.end - 1; n >= blocks.begin; --n) {
      wait_copies<0>();
      __syncthreads();  // K is here, and nobody reads the last V any more
      load_keys(shared.v, v, n);
      multiply_scores();
      const bool masked = T::kModified || n < blocks.unmasked_begin || n >= blocks.unmasked_end;
      if (T::kSoftmaxFirst) softmax(n, masked);
      wait_copies<0>();
      __syncthreads();  // V is here, and nobody reads this K any more
      if (n > blocks.begin) load_keys(shared.k, k, n - 1);
      if (!T::kSoftmaxFirst) softmax(n, masked);
      multiply_output();
    }
  }

  using Copier = RowCopier<Element, T::kThreads>;

  __device__ Copier copier(const Input& input, int head, int64_t columns) const {
    const auto* first =
        static_cast<const Element*>(input.data) + tile.batch * input.batch_stride + head * input.head_stride;
    return {first, input.row_stride, columns, arguments.vector_input, static_cast<int>(threadIdx.x)};
  }

  template <typename Rows>
  __device__ void load_keys(Rows& target, const Copier& from, int n) const {
    from.load(target, n * T::kKeyTile, static_cast<int>(limits.keys));
    commit_copies();
  }

  __device__ void multiply_scores() {
#pragma unroll
    for (int f = 0; f < T::kFragments; ++f) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) scores[f][i] = 0;
    }
#pragma unroll kStepsAtOnce
    for (int step = 0; step < T::kHeadSize / 16; ++step) {
      AFragment<Element> a[T::kFragments];
#pragma unroll
      for (int f = 0; f < T::kFragments; ++f) shared.q.load_a(a[f], q_lane, 16 * f, step);
#pragma unroll
      for (int j = 0; j < T::kKeyTile / 16; ++j) {
        BFragment<Element> b;
        shared.k.load_b_of_rows(b, k_lane, 16 * j, step);
#pragma unroll
        for (int f = 0; f < T::kFragments; ++f) multiply(scores[f] + 8 * j, a[f], b);
      }
    }
  }

  __device__ void softmax(int n, bool masked) {
    const int first_column = n * T::kKeyTile + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int f = 0; f < T::kFragments; ++f) {
      if (masked) mask(f, first_column);
      float correction[2];
      softmax_step<kSubtractFirst>(scores[f], states[f], unit * kLog2E, correction);
      rescale(output[f], correction);
    }
  }

  // Rules are made anew for each block: there are no registers to keep them in.
  __device__ void mask(int f, int first_column) {
    const int last = static_cast<int>(arguments.problem.q_sequence_length) - 1;
    RowRules rows[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows[r] = row_rules(arguments.problem, limits, tile.batch, tile.head, min(query(f, r), last));
    }
    if constexpr (T::kModified) {
      const ScoreRules rules = score_rules(arguments.problem);
      MaskValues<Element, kScores> mask;
      fetch_mask(mask, first_column, rules, rows);
      modify_scores(scores[f], mask, first_column, rules, rows);
    } else {
      mask_outside(scores[f], first_column, rows);
    }
  }

  __device__ void multiply_output() {
#pragma unroll
    for (int step = 0; step < T::kKeyTile / 16; ++step) {
      AFragment<Element> a[T::kFragments];
#pragma unroll
      for (int f = 0; f < T::kFragments; ++f) a[f] = as_a<Element>(scores[f] + 8 * step);
#pragma unroll
      for (int j = 0; j < T::kHeadSize / 16; ++j) {
        BFragment<Element> b;
        shared.v.load_b_of_columns(b, v_lane, 16 * step, j);
#pragma unroll
        for (int f = 0; f < T::kFragments; ++f) multiply(output[f] + 8 * j, a[f], b);
      }
    }
  }

  __device__ void finish() {
    const Problem& problem = arguments.problem;
    const float* sink = problem.sinks != nullptr ? problem.sinks + tile.head : nullptr;
    const float* const sinks[2] = {sink, sink};
#pragma unroll
    for (int f = 0; f < T::kFragments; ++f) {
      OutputRow<Element> targets[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = query(f, r);
        if (i < problem.q_sequence_length) targets[r] = output_row<Element>(problem, tile.batch, tile.head, i);
      }
      const int columns = static_cast<int>(problem.v_head_size);
      if (arguments.vector_output) {
        finish_rows<true>(output[f], states[f], unit, sinks, targets, columns);
      } else {
        finish_rows<false>(output[f], states[f], unit, sinks, targets, columns);
      }
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 2) sm80_forward(const __grid_constant__ Sm80Arguments arguments) {
  extern __shared__ __align__(128) char dynamic_shared[];
  auto& shared = *reinterpret_cast<Sm80Shared<T>*>(dynamic_shared);
  Sm80Block<T> block{arguments, shared, arguments.order.tile(blockIdx.x),
                     static_cast<int>(threadIdx.x) / 32 * 16 * T::kFragments};
  block.run();
}

}  // namespace flashonnx::cuda

// Attention of few query rows over many keys (decoding), compute capability 8.0 and up: the keys are split over blocks
// and within a block over warps, and the parts are merged by their (m, l) in a fixed order, so results repeat.
//
// The query heads of one key/value head share a tile of 16 rows, so K and V are read once. Each warp feeds itself
// through a private ring of cp.async stages and meets no barrier until its keys are done: the copies of all warps
// together keep device memory busy. After "Flash-Decoding" (Dao et al., 2023) and FlashAttention-2, section 3.2.
#pragma once

#include "op/cuda/key_blocks.cuh"
#include "op/cuda/output.cuh"
#include "op/cuda/ptx/dependent_launch.cuh"
#include "op/cuda/shared_tile.cuh"
#include "op/cuda/tiles.h"

namespace flashonnx::cuda {

template <typename Element_, int kHeadSize_>
struct SplitTile {
  using Element = Element_;
  static constexpr int kHeadSize = kHeadSize_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = kSplitTile.q_tile;
  static constexpr int kKeys = kSplitTile.key_tile / kWarps;  // of a step of one warp
  static constexpr int kStages = split_stages(sizeof(Element));
};

template <typename T>
struct SplitStage {
  SharedTile<typename T::Element, T::kKeys, T::kHeadSize> k, v;
};

// What a warp hands over at its end, in the place of its ring.
template <typename T>
struct SplitPart {
  float output[T::kRows][T::kHeadSize];
  float max[T::kRows];
  float sum[T::kRows];
};

template <typename T>
struct SplitShared {
  SharedTile<typename T::Element, T::kRows, T::kHeadSize> q;
  union Ring {
    SplitStage<T> stages[T::kStages];
    SplitPart<T> part;
  } rings[T::kWarps];
};

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
};

constexpr int kMergeThreads = 128;

template <typename T>
struct SplitBlock {
  using Element = typename T::Element;

  const SplitArguments& arguments;
  SplitShared<T>& shared;
  const int batch, kv_head, row_tile, split;
  const int warp, lane;

  int group, rows;  // query heads of a key/value head; query rows of all of them
  KeyLimits limits;
  int begin, end;  // this block's keys

  static constexpr bool kQInRegisters = T::kHeadSize <= 128 && sizeof(Element) == 2;

  float output[T::kHeadSize / 2];
  RowState states[2];
  RowRules rules[2];
  ScoreRules score;
  AFragment<Element> q[kQInRegisters ? T::kHeadSize / 16 : 1];

  __device__ void run() {
    const Problem& problem = arguments.problem;
    group = static_cast<int>(problem.q_num_heads / problem.kv_num_heads);
    rows = group * static_cast<int>(problem.q_sequence_length);
    limits = limits_of(problem, batch);
    take_share_of_keys();
    start_copies();
    load_q();
    start_rows();
    attend();
    hand_over();
    __syncthreads();
    merge_warps();
  }

 private:
  // Row r of the tile is head r % group of query r / group, so that neighbours see almost the same keys.
  __device__ int row_index(int row) const { return min(row_tile * T::kRows + row, rows - 1); }
  __device__ int head(int row) const { return kv_head * group + row_index(row) % group; }
  __device__ int query(int row) const { return row_index(row) / group; }
  __device__ bool exists(int row) const { return row_tile * T::kRows + row < rows; }

  __device__ void take_share_of_keys() {
    const KeyRange range = limits.rows(query(0), query(T::kRows - 1));
    const int count = static_cast<int>(range.end - range.begin);
    if (count <= 0) {
      begin = end = 0;
      return;
    }
    constexpr int kStep = T::kKeys * T::kWarps;
    const int share = ((count + arguments.splits - 1) / arguments.splits + kStep - 1) / kStep * kStep;
    begin = static_cast<int>(range.begin) + split * share;
    end = min(begin + share, static_cast<int>(range.end));
  }

  __device__ void load_q() {
    const Problem& problem = arguments.problem;
    constexpr int kChunk = decltype(shared.q)::kChunk;
    constexpr int kRowChunks = T::kHeadSize / kChunk;
    for (int i = threadIdx.x; i < T::kRows * kRowChunks; i += T::kThreads) {
      const int row = i / kRowChunks;
      const int column = i % kRowChunks * kChunk;
      const auto* from = static_cast<const Element*>(problem.q.data) + batch * problem.q.batch_stride +
                         head(row) * problem.q.head_stride + query(row) * problem.q.row_stride;
      alignas(16) Element values[kChunk];
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        values[c] = column + c < problem.head_size ? from[column + c] : static_cast<Element>(0.f);
      }
      *reinterpret_cast<uint4*>(shared.q.chunk(row, column / kChunk)) = *reinterpret_cast<const uint4*>(values);
    }
    __syncthreads();
    if constexpr (kQInRegisters) {
#pragma unroll
      for (int step = 0; step < T::kHeadSize / 16; ++step) shared.q.load_a(q[step], 0, step);
    }
  }

  __device__ void start_rows() {
    score = score_rules(arguments.problem);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      states[r] = RowState{};
      const int row = lane / 4 + 8 * r;
      rules[r] = row_rules(arguments.problem, limits, batch, head(row), query(row));
      rules[r].end = min(rules[r].end, end);
    }
#pragma unroll
    for (int i = 0; i < T::kHeadSize / 2; ++i) output[i] = 0;
  }

  static constexpr int kStride = T::kKeys * T::kWarps;  // from one step of a warp to its next
  static constexpr int kAhead = T::kStages - 1;         // steps whose copies are on their way

  __device__ void start_copies() {
#pragma unroll
    for (int stage = 0; stage < kAhead; ++stage) load_stage(stage, begin + warp * T::kKeys + stage * kStride);
  }

  __device__ void attend() {
    int stage = 0;
#pragma unroll 1
    for (int key = begin + warp * T::kKeys; key < end; key += kStride) {
      wait_copies<kAhead - 1>();
      __syncwarp();
      load_stage(stage == 0 ? T::kStages - 1 : stage - 1, key + kAhead * kStride);
      step(shared.rings[warp].stages[stage], key);
      if (++stage == T::kStages) stage = 0;
    }
    wait_copies<0>();
    __syncwarp();
  }

  // Commits a group even where there is nothing to load, so that groups and steps stay in step.
  __device__ void load_stage(int stage, int key) {
    if (key < end) {
      const Problem& problem = arguments.problem;
      load_rows(shared.rings[warp].stages[stage].k, problem.k, key, problem.head_size);
      load_rows(shared.rings[warp].stages[stage].v, problem.v, key, problem.v_head_size);
    }
    commit_copies();
  }

  template <typename Rows>
  __device__ void load_rows(Rows& target, const Input& input, int key, int64_t columns) {
    const auto* source = static_cast<const Element*>(input.data) + batch * input.batch_stride +
                         kv_head * input.head_stride + key * input.row_stride;
    target.template load<32>(source, input.row_stride, end - key, static_cast<int>(columns), arguments.vector_input,
                             lane);
  }

  __device__ void step(SplitStage<T>& stage, int key) {
    float scores[T::kKeys / 2] = {};
#pragma unroll
    for (int i = 0; i < T::kHeadSize / 16; ++i) {
      if constexpr (!kQInRegisters) shared.q.load_a(q[0], 0, i);
      BFragment<Element> b;
      stage.k.load_b_of_rows(b, 0, i);
      multiply(scores, q[kQInRegisters ? i : 0], b);
    }

    const int first_column = key + 2 * (lane % 4);
    MaskValues<Element, T::kKeys / 2> mask;
    fetch_mask(mask, first_column, score, rules);
    modify_scores(scores, mask, first_column, score, rules);
    float correction[2];
    softmax_step<true>(scores, states, kLog2E, correction);
    rescale(output, correction);

    const AFragment<Element> p = as_a<Element>(scores);
#pragma unroll
    for (int j = 0; j < T::kHeadSize / 16; ++j) {
      BFragment<Element> b;
      stage.v.load_b_of_columns(b, 0, j);
      multiply(output + 8 * j, p, b);
    }
  }

  __device__ void hand_over() {
    SplitPart<T>& part = shared.rings[warp].part;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = lane / 4 + 8 * r;
      const float sum = quad_sum(states[r].sum);
      if (lane % 4 == 0) {
        part.max[row] = states[r].max;
        part.sum[row] = sum;
      }
#pragma unroll
      for (int j = 0; j < T::kHeadSize / 8; ++j) {
        part.output[row][8 * j + 2 * (lane % 4)] = output[4 * j + 2 * r];
        part.output[row][8 * j + 2 * (lane % 4) + 1] = output[4 * j + 2 * r + 1];
      }
    }
  }

  __device__ void merge_warps() {
    const Problem& problem = arguments.problem;
    const int columns = static_cast<int>(problem.v_head_size);
    for (int row = warp; row < T::kRows && exists(row); row += T::kWarps) {
      float max = -INFINITY;
#pragma unroll
      for (int w = 0; w < T::kWarps; ++w) max = fmaxf(max, shared.rings[w].part.max[row]);
      float factor[T::kWarps];
      float sum = 0;
#pragma unroll
      for (int w = 0; w < T::kWarps; ++w) {
        factor[w] = max == -INFINITY ? 0.f : exp2f((shared.rings[w].part.max[row] - max) * kLog2E);
        sum += factor[w] * shared.rings[w].part.sum[row];
      }

      const int64_t place = (batch * problem.q_num_heads + head(row)) * problem.q_sequence_length + query(row);
      const int64_t all_rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
      if (arguments.partials.output != nullptr) {
        float* target = arguments.partials.output + (split * all_rows + place) * arguments.partial_columns;
        for (int column = lane; column < columns; column += 32) target[column] = merged(row, column, factor);
        if (lane == 0) arguments.partials.state[split * all_rows + place] = make_float2(max, sum);
      } else {
        const float* sink = problem.sinks != nullptr ? problem.sinks + head(row) : nullptr;
        const RowResult result = finish_row(max, sum, 1.f, sink);
        const OutputRow<Element> target = output_row<Element>(problem, batch, head(row), query(row));
        for (int column = lane; column < columns; column += 32) {
          target.y[column] = static_cast<Element>(merged(row, column, factor) * result.factor);
        }
        if (lane == 0 && target.lse != nullptr) *target.lse = result.lse;
      }
    }
  }

  __device__ float merged(int row, int column, const float (&factor)[T::kWarps]) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < T::kWarps; ++w) value += factor[w] * shared.rings[w].part.output[row][column];
    return value;
  }
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads) split_forward(const __grid_constant__ SplitArguments arguments) {
  extern __shared__ char dynamic_shared[];
  auto& shared = *reinterpret_cast<SplitShared<T>*>(dynamic_shared);
  wait_for_previous_kernel();
  let_next_kernel_start();
  // Row tiles of the same keys are neighbours, so that all but the first find them in L2.
  int index = blockIdx.x;
  const int row_tile = index % arguments.row_tiles;
  index /= arguments.row_tiles;
  const int split = index % arguments.splits;
  index /= arguments.splits;
  const int kv_heads = static_cast<int>(arguments.problem.kv_num_heads);
  SplitBlock<T> block{arguments,
                      shared,
                      index / kv_heads,
                      index % kv_heads,
                      row_tile,
                      split,
                      static_cast<int>(threadIdx.x) / 32,
                      static_cast<int>(threadIdx.x) % 32};
  block.run();
}

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

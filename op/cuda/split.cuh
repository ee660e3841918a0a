// Attention of few query rows over many keys (decoding), compute capability 8.0 and up: the keys are split over blocks
// and within a block over warps, and the parts are merged by their (m, l) in a fixed order, so results repeat.
//
// The query heads of one key/value head share a tile of 16 rows, so K and V are read once. Each warp feeds itself
// through a private ring of cp.async stages and meets no barrier until its keys are done: the copies of all warps
// together keep device memory busy. After "Flash-Decoding" (Dao et al., 2023) and FlashAttention-2, section 3.2.
#pragma once

#include "op/cuda/key_blocks.cuh"
#include "op/cuda/shared_tile.cuh"
#include "op/cuda/split_merge.cuh"

namespace flashonnx::cuda {

template <typename Element_, int kHeadSize_>
struct SplitTile {
  using Element = Element_;
  static constexpr int kHeadSize = kHeadSize_;
  static constexpr int kRows = kSplitRows;
  static constexpr int kKeys = split_warp_keys(sizeof(Element), kHeadSize);  // of a step of one warp
  static constexpr int kStages = split_stages(sizeof(Element));
};

template <typename T>
struct SplitStage {
  SharedTile<typename T::Element, T::kKeys, T::kHeadSize> k, v;
};

// What a warp hands over at its end, in the place of its ring. Rows lie so far apart that the lanes of an accumulator
// write to different banks.
template <typename T>
struct SplitPart {
  float output[T::kRows][T::kHeadSize + 8];
  float2 state[T::kRows];  // m, l
};

template <typename T>
struct SplitShared {
  SharedTile<typename T::Element, T::kRows, T::kHeadSize> q;
  union Ring {
    SplitStage<T> stages[T::kStages];
    SplitPart<T> part;
  } rings[kMostSplitWarps];  // of which there are as many as warps
};

template <typename T>
struct SplitBlock {
  using Element = typename T::Element;

  const SplitArguments& arguments;
  SplitShared<T>& shared;
  const int batch, kv_head, row_tile, split;
  const int warps, warp, lane;

  int stride;  // in keys, from one step of a warp to its next
  KeyLimits limits;
  int begin, end;                    // this block's keys
  int unmasked_begin, unmasked_end;  // those of them that every row sees
  float unit;                        // natural logarithms per score unit

  static constexpr bool kQInRegisters = T::kHeadSize <= 128 && sizeof(Element) == 2;

  float output[T::kHeadSize / 2];
  RowState states[2];
  RowRules rules[2];
  ScoreRules score;
  using Copier = RowCopier<Element, 32>;
  Copier k, v;
  LaneAddress q_lane;
  AFragment<Element> q[kQInRegisters ? T::kHeadSize / 16 : 1];

  __device__ void run() {
    const Problem& problem = arguments.problem;
    stride = T::kKeys * warps;
    limits = key_limits(problem, batch);
    take_share_of_keys();
    k = copier(problem.k, problem.head_size);
    v = copier(problem.v, problem.v_head_size);
    start_copies();
    load_q();
    start_rows();
    attend();
    hand_over();
    __syncthreads();
    join_warps();
  }

 private:
  // Row r of the tile is head r % group of query r / group, so that neighbours see almost the same keys.
  __device__ unsigned row_index(int row) const { return min(row_tile * T::kRows + row, arguments.rows - 1); }
  __device__ int head(int row) const { return kv_head * arguments.group + row_index(row) % arguments.group; }
  __device__ int query(int row) const { return row_index(row) / arguments.group; }
  __device__ bool exists(int row) const { return row_tile * T::kRows + row < arguments.rows; }

  // Whole steps of the block, one more or less than others take, so that all end together.
  __device__ void take_share_of_keys() {
    const KeyRange range = limits.rows(query(0), query(T::kRows - 1));
    const int first = static_cast<int>(range.begin), last = static_cast<int>(range.end);
    const unsigned steps = last > first ? static_cast<unsigned>(last - first - 1) / stride + 1 : 0;
    const int share = steps / arguments.splits, longer = steps % arguments.splits;
    begin = first + (split * share + min(split, longer)) * stride;
    end = min(begin + (share + (split < longer ? 1 : 0)) * stride, last);
  }

  __device__ void load_q() {
    const Problem& problem = arguments.problem;
    constexpr int kChunk = decltype(shared.q)::kChunk;
    constexpr int kRowChunks = T::kHeadSize / kChunk;
    for (int i = threadIdx.x; i < T::kRows * kRowChunks; i += blockDim.x) {
      const int row = i / kRowChunks;
      const int column = i % kRowChunks * kChunk;
      const auto* from = static_cast<const Element*>(problem.q.data) + batch * problem.q.batch_stride +
                         head(row) * problem.q.head_stride + query(row) * problem.q.row_stride;
      alignas(16) Element values[kChunk];
#pragma unroll
      for (int c = 0; c < kChunk; ++c) {
        values[c] = column + c < problem.head_size ? from[column + c] : static_cast<Element>(0.f);
      }
      store_16_bytes(shared.q.at(shared.q.chunk(row, 0), 0, column / kChunk), *reinterpret_cast<const uint4*>(values));
    }
    __syncthreads();
    q_lane = shared.q.lane_of_a(0);
    if constexpr (kQInRegisters) {
#pragma unroll
      for (int step = 0; step < T::kHeadSize / 16; ++step) shared.q.load_a(q[step], q_lane, 0, step);
    }
  }

  __device__ void start_rows() {
    score = score_rules(arguments.problem);
    unit = score.unit;
    const KeyRange every = limits.every_row(query(0), query(T::kRows - 1));
    unmasked_begin = static_cast<int>(every.begin);
    unmasked_end = min(static_cast<int>(every.end), end);
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

  __device__ Copier copier(const Input& input, int64_t columns) const {
    const auto* first =
        static_cast<const Element*>(input.data) + batch * input.batch_stride + kv_head * input.head_stride;
    return {first, input.row_stride, columns, arguments.vector_input, lane};
  }

  static constexpr int kAhead = T::kStages - 1;  // steps whose copies are on their way

  __device__ void start_copies() {
#pragma unroll
    for (int stage = 0; stage < kAhead; ++stage) load_stage(stage, begin + warp * T::kKeys + stage * stride);
  }

  __device__ void attend() {
    int stage = 0;
#pragma unroll 1
    for (int key = begin + warp * T::kKeys; key < end; key += stride) {
      wait_copies<kAhead - 1>();
      __syncwarp();
      load_stage(stage == 0 ? T::kStages - 1 : stage - 1, key + kAhead * stride);
      step(shared.rings[warp].stages[stage], key);
      if (++stage == T::kStages) stage = 0;
    }
    wait_copies<0>();
    __syncwarp();
  }

  // Commits a group even where there is nothing to load, so that groups and steps stay in step.
  __device__ void load_stage(int stage, int key) {
    if (key < end) {
      k.load(shared.rings[warp].stages[stage].k, key, end);
      v.load(shared.rings[warp].stages[stage].v, key, end);
    }
    commit_copies();
  }

  __device__ void step(SplitStage<T>& stage, int key) {
    const LaneAddress k_lane = stage.k.lane_of_rows();
    float scores[T::kKeys / 2] = {};
#pragma unroll
    for (int i = 0; i < T::kHeadSize / 16; ++i) {
      if constexpr (!kQInRegisters) shared.q.load_a(q[0], q_lane, 0, i);
#pragma unroll
      for (int j = 0; j < T::kKeys / 16; ++j) {
        BFragment<Element> b;
        stage.k.load_b_of_rows(b, k_lane, 16 * j, i);
        multiply(scores + 8 * j, q[kQInRegisters ? i : 0], b);
      }
    }

    const int first_column = key + 2 * (lane % 4);
    if (arguments.modified) {
      MaskValues<Element, T::kKeys / 2> mask;
      fetch_mask(mask, first_column, score, rules);
      modify_scores(scores, mask, first_column, score, rules);
    } else if (key < unmasked_begin || key + T::kKeys > unmasked_end) {
      mask_outside(scores, first_column, rules);
    }
    float correction[2];
    softmax_step<true>(scores, states, unit * kLog2E, correction);
    rescale(output, correction);

    const LaneAddress v_lane = stage.v.lane_of_columns();
#pragma unroll
    for (int i = 0; i < T::kKeys / 16; ++i) {
      const AFragment<Element> p = as_a<Element>(scores + 8 * i);
#pragma unroll
      for (int j = 0; j < T::kHeadSize / 16; ++j) {
        BFragment<Element> b;
        stage.v.load_b_of_columns(b, v_lane, 16 * i, j);
        multiply(output + 8 * j, p, b);
      }
    }
  }

  __device__ void hand_over() {
    SplitPart<T>& part = shared.rings[warp].part;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = lane / 4 + 8 * r;
      const float sum = quad_sum(states[r].sum);
      if (exists(row)) {
        if (lane % 4 == 0) part.state[row] = make_float2(states[r].max * unit, sum);
#pragma unroll
        for (int j = 0; j < T::kHeadSize / 8; ++j) {
          *reinterpret_cast<float2*>(&part.output[row][8 * j + 2 * (lane % 4)]) =
              make_float2(output[4 * j + 2 * r], output[4 * j + 2 * r + 1]);
        }
      }
    }
  }

  __device__ void join_warps() {
    constexpr int kRowThreads = T::kHeadSize / kPartColumns;
    const int here = min(arguments.rows - row_tile * T::kRows, T::kRows);
    for (int i = threadIdx.x; i < here * kRowThreads; i += blockDim.x) {
      const int row = i / kRowThreads;
      const int column = i % kRowThreads * kPartColumns;
      if (column >= arguments.problem.v_head_size) continue;
      const RowPart joined = join_parts<kMostSplitWarps>(warps, [&](int w) {
        const SplitPart<T>& part = shared.rings[w].part;
        return RowPart{part.state[row], *reinterpret_cast<const float4*>(&part.output[row][column])};
      });
      if (arguments.splits == 1) {
        store_joined<Element>(arguments.problem, batch, head(row), query(row), column, joined);
      } else {
        store_part(row, column, joined);
      }
    }
  }

  __device__ void store_part(int row, int column, const RowPart& part) {
    const Problem& problem = arguments.problem;
    const int64_t all_rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
    const int64_t place =
        split * all_rows + (batch * problem.q_num_heads + head(row)) * problem.q_sequence_length + query(row);
    const SplitPartials& partials = arguments.partials;
    *reinterpret_cast<float4*>(partials.output + place * arguments.partial_columns + column) = part.output;
    if (column == 0) partials.state[place] = part.state;
  }
};

template <typename T>
__global__ void __launch_bounds__(32 * kMostSplitWarps, 1)
    split_forward(const __grid_constant__ SplitArguments arguments) {
  extern __shared__ __align__(128) char dynamic_shared[];
  auto& shared = *reinterpret_cast<SplitShared<T>*>(dynamic_shared);
  let_next_kernel_start();
  unsigned index = blockIdx.x;
  const int split = index % arguments.splits;
  index /= arguments.splits;
  const int row_tile = index % arguments.row_tiles;  // neighbours, so that all but the first find the keys in L2
  index /= arguments.row_tiles;
  const unsigned kv_heads = static_cast<unsigned>(arguments.problem.kv_num_heads);
  wait_for_previous_kernel();
  SplitBlock<T> block{arguments,
                      shared,
                      static_cast<int>(index / kv_heads),
                      static_cast<int>(index % kv_heads),
                      row_tile,
                      split,
                      static_cast<int>(blockDim.x) / 32,
                      static_cast<int>(threadIdx.x) / 32,
                      static_cast<int>(threadIdx.x) % 32};
  block.run();
}

}  // namespace flashonnx::cuda

// Forward attention for compute capability 9.0: producer warps feed Q, K, V and attn_mask through TMA into rings of
// shared memory, 2 or 3 consumer warpgroups of 64 query rows each run wgmma and softmax.
//
// Within a consumer, the next block's Q K^T runs while this block's softmax does, from one tile to the next too, and P
// never leaves the registers. Between consumers, a token passed by named barriers lets one issue its products while
// another is in its softmax. After Shah et al., "FlashAttention-3" (arXiv 2407.08608), sections 3.1 and 3.2.
#pragma once

#include "op/cuda/output.cuh"
#include "op/cuda/ptx/wgmma.cuh"
#include "op/cuda/sm90_mask.cuh"
#include "op/cuda/sm90_producer.cuh"

namespace flashonnx::cuda {

template <typename T>
struct Sm90Consumer {
  using Element = typename T::Element;
  static constexpr int kScores = T::kKeyTile / 2;  // registers
  static constexpr int kOutputs = T::kVHeadSize / 2;
  enum NamedBarrier { kFirstTurn = 1, kFirstGroup = 5 };  // 0 is __syncthreads

  const Sm90Arguments& arguments;
  Sm90Shared<T>& shared;
  const int group;  // which consumer this is
  const int warp;   // of the group

  uint32_t step_count = 0;  // key blocks so far: their place in the rings
  RingPosition<T::kQStages> q_ring;
  RingPosition<T::kWorkSlots> work_ring;
  int unfinished = -1;       // the work slot of the tile whose last P V and whose end are still to come
  bool accumulates = false;  // whether the next P V adds to what `output` holds
  float scores[kScores];
  float output[kOutputs];
  uint32_t p[kScores / 2];  // probabilities, as the A operand of P V
  RowState states[2];
  float correction[2];

  // Tiles follow one another without a gap: the first Q K^T of a tile runs together with the last P V of the one
  // before, and its softmax before that one's end.
  __device__ void run() {
    if (group == 0) named_barrier_arrive(kFirstTurn, 256);
    while (true) {
      const int slot = work_ring.stage;
      wait(&shared.work_full[slot], work_ring.phase);
      work_ring.advance();
      const bool is_end = shared.work[slot].tile.block < 0;
      if (is_end || !starts_at_once(slot)) finish_last();
      if (is_end) return;
      attend(slot);
    }
  }

 private:
  // One arrival a warp.
  __device__ void release(uint64_t* barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(barrier);
  }

  __device__ int query(int block, int r) const {
    return block * T::kQTile + T::kGroupRows * group + 16 * warp + threadIdx.x % 32 / 4 + 8 * r;
  }

  // The K of this step and the V of the one before share no buffer, but have the same place in their rings.
  __device__ int stage(uint32_t step) const { return step % T::kStages; }
  __device__ uint32_t phase(uint32_t step) const { return step / T::kStages % 2; }

  // How many of the tile's blocks, the last ones, are for other consumers' rows only.
  __device__ int passes(int slot) const { return shared.work[slot].blocks.end - shared.work[slot].group_end[group]; }

  // Otherwise the tile before cannot wait for it: among tiles without any key, work slots would run out.
  __device__ bool starts_at_once(int slot) const {
    const KeyBlocks& blocks = shared.work[slot].blocks;
    return passes(slot) <= 0 && blocks.begin < blocks.end;
  }

  __device__ void attend(int slot) {
#pragma unroll 1
    for (int i = passes(slot); i > 0; --i) pass_block();
    KeyBlocks blocks = shared.work[slot].blocks;
    const bool has_q = blocks.begin < blocks.end;
    if (has_q) wait(&shared.q_full[q_ring.stage][group], q_ring.phase);
    blocks.end = shared.work[slot].group_end[group];
    if (blocks.begin < blocks.end) {
      step<true>(slot, blocks, blocks.end - 1);
#pragma unroll 1
      for (int n = blocks.end - 2; n >= blocks.begin; --n) step<false>(slot, blocks, n);
      unfinished = slot;
    } else {
      if (has_q) release(&shared.q_empty[q_ring.stage][group]);
      const float nothing[kOutputs] = {};
      const RowState no_keys[2];
      finish(slot, nothing, no_keys);
    }
    if (has_q) q_ring.advance();
  }

  __device__ void pass_block() {
    wait(&shared.k_full[stage(step_count)], phase(step_count));
    take_turn();
    pass_turn();
    release(&shared.k_empty[stage(step_count)]);
    wait(&shared.v_full[stage(step_count)], phase(step_count));
    release(&shared.v_empty[stage(step_count)]);
    ++step_count;
  }

  // Q K^T of block n, P V of the block before it, and, while that runs, the softmax of block n. kBegins: it is the
  // tile's first, and the block before it the last tile's, unless that has ended.
  template <bool kBegins>
  __device__ void step(int slot, const KeyBlocks& blocks, int n) {
    const bool has_previous = !kBegins || unfinished >= 0;
    wait(&shared.k_full[stage(step_count)], phase(step_count));
    take_turn();
    issue_scores();
    if (has_previous) wait(&shared.v_full[stage(step_count - 1)], phase(step_count - 1));
    issue_output();  // the very first is of whatever lies there, and dropped
    pass_turn();
    finish_scores(slot, n);
    release(&shared.k_empty[stage(step_count)]);
    if (n == blocks.begin) release(&shared.q_empty[q_ring.stage][group]);

    const RowState ended[2] = {states[0], states[1]};
    if (kBegins) states[0] = states[1] = RowState{};
    softmax(slot, blocks, n);
    finish_softmax_here();
    wgmma_wait<0>();
    pin(output);
    if (has_previous) release(&shared.v_empty[stage(step_count - 1)]);
    if (!kBegins) rescale(output, correction);
    pack_probabilities();
    if (kBegins && unfinished >= 0) finish(unfinished, output, ended);
    if (kBegins) clear_padding_rows(static_cast<int>(shared.work[slot].limits.keys) - n * T::kKeyTile);
    accumulates = !kBegins;
    ++step_count;
  }

  __device__ void issue_scores() {
    const uint64_t q = matrix_descriptor(shared.q[q_ring.stage] + group * T::kGroupPanelBytes, 0);
    const uint64_t k = matrix_descriptor(shared.k[stage(step_count)], 0);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < T::kHeadSize / 16; ++step) {
      const int in_panel = step % 4 * 32;
      wgmma_shared<Element>(scores, advance(q, step / 4 * T::kQPanelBytes + in_panel),
                            advance(k, step / 4 * T::kKeyPanelBytes + in_panel), step > 0);
    }
    wgmma_commit();
  }

  __device__ void issue_output() {
    const uint64_t v = matrix_descriptor(shared.v[stage(step_count - 1)], T::kKeyPanelBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < T::kKeyTile / 16; ++step) {
      wgmma_registers<Element>(output, p + 4 * step, advance(v, step * 16 * 128), accumulates || step > 0);
    }
    wgmma_commit();
  }

  static __device__ int first_column(int n) { return n * T::kKeyTile + 2 * (threadIdx.x % 4); }

  // Made anew for each block that needs them: there are no registers to keep them in.
  __device__ void make_rows(int slot, RowRules (&rows)[2]) const {
    const Sm90Work<T>& work = shared.work[slot];
    const int end = static_cast<int>(arguments.problem.q_sequence_length) - 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows[r] = row_rules(arguments.problem, work.limits, work.tile.batch, work.tile.head,
                          min(query(work.tile.block, r), end));
    }
  }

  // Waits for Q K^T and makes scores of it, all but the interval of allowed keys.
  __device__ void finish_scores(int slot, int n) {
    if constexpr (T::kModified) {
      const int row = arguments.mask.by_rows ? T::kGroupRows * group + 16 * warp : -1;
      const bool bool_mask = T::kFloatMaskOnly ? false : T::kBoolMaskOnly ? true : arguments.rules.bool_mask;
      const MaskReader<Element, kScores, T::kMaskPanelBytes, T::kFloatMaskOnly ? 3 : 0> mask(
          shared.mask[stage(step_count)], row, bool_mask);
      wait_for_scores();
      if constexpr (T::kFloatMaskOnly) {
        add_mask(scores, arguments.rules.factor, mask.template values<false>());
      } else if constexpr (T::kBoolMaskOnly) {
        obey_mask(scores, mask.template values<true>());
      } else {
        RowRules rows[2];
        if (arguments.rules.has_alibi) make_rows(slot, rows);
        apply_rules(scores, mask, first_column(n), arguments.rules, rows);
      }
    } else {
      wait_for_scores();
    }
  }

  __device__ void wait_for_scores() {
    wgmma_wait<1>();
    pin(scores);
  }

  __device__ void softmax(int slot, const KeyBlocks& blocks, int n) {
    const bool at_an_end = n >= blocks.unmasked_end || n < blocks.unmasked_begin;
    RowRules rows[2];
    if (at_an_end) {
      make_rows(slot, rows);
      mask_outside(scores, first_column(n), rows);
    }
    softmax_step<false>(scores, states, arguments.rules.unit * kLog2E, correction);
  }

  __device__ void pack_probabilities() {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) p[i] = pack<Element>(scores[2 * i], scores[2 * i + 1]);
  }

  // V's rows past nonpad_kv_seqlen may hold anything, NaN too, which a probability of 0 would not silence.
  __device__ void clear_padding_rows(int valid) {
    if (arguments.problem.nonpad_kv_seqlen == nullptr) return;
    wait(&shared.v_full[stage(step_count)], phase(step_count));
    for (int i = valid * 8 + threadIdx.x % 128; i < T::kKeyTile * 8; i += 128) {
      for (int panel = 0; panel < T::kVPanels; ++panel) {
        char* panel_rows = shared.v[stage(step_count)] + panel * T::kKeyPanelBytes;
        *reinterpret_cast<uint4*>(panel_rows + i * 16) = make_uint4(0, 0, 0, 0);
      }
    }
    fence_async_proxy();
    named_barrier_sync(kFirstGroup + group, 128);
  }

  // Never sleeps: sums are not negative. But ptxas (CUDA 13.0) else sinks the whole softmax below the wait that
  // follows, where no product is left to hide it; it moves no wait across an instruction that needs the softmax's last
  // result. (A trap in this place makes it serialise all products, C7512.)
  __device__ void finish_softmax_here() {
    if (states[0].sum + states[1].sum < 0) asm volatile("nanosleep.u32 1;" ::: "memory");
  }

  __device__ void take_turn() { named_barrier_sync(kFirstTurn + group, 256); }

  __device__ void pass_turn() { named_barrier_arrive(kFirstTurn + (group + 1 == T::kConsumers ? 0 : group + 1), 256); }

  // The last P V of the tile before, where no Q K^T of this one can run with it.
  __device__ void finish_last() {
    if (unfinished < 0) return;
    wait(&shared.v_full[stage(step_count - 1)], phase(step_count - 1));
    issue_output();
    wgmma_wait<0>();
    pin(output);
    release(&shared.v_empty[stage(step_count - 1)]);
    finish(unfinished, output, states);
    unfinished = -1;
  }

  // The end of a tile, whose work slot is free then.
  __device__ void finish(int slot, const float (&o)[kOutputs], const RowState (&ended)[2]) {
    const Problem& problem = arguments.problem;
    const Tile tile = shared.work[slot].tile;
    OutputRow<Element> targets[2];
    const float* sinks[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = query(tile.block, r);
      if (i < problem.q_sequence_length) targets[r] = output_row<Element>(problem, tile.batch, tile.head, i);
      sinks[r] = problem.sinks != nullptr ? problem.sinks + tile.head : nullptr;
    }
    finish_rows<true>(o, ended, arguments.rules.unit, sinks, targets, static_cast<int>(problem.v_head_size));
    arrive(&shared.work_empty[slot]);  // each thread for itself, which racecheck can follow
  }
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 1) sm90_forward(const __grid_constant__ Sm90Arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) char dynamic_shared[];  // as swizzled rows need it
  auto& shared = *reinterpret_cast<Sm90Shared<T>*>(dynamic_shared);
  if (threadIdx.x == 0) {
    constexpr int kConsumerWarps = 4 * T::kConsumers;
    for (int i = 0; i < T::kQStages * T::kConsumers; ++i) {
      init_barrier(&shared.q_full[0][i], 1);
      init_barrier(&shared.q_empty[0][i], 4);
    }
    for (int i = 0; i < T::kStages; ++i) {
      init_barrier(&shared.k_full[i], 1);
      init_barrier(&shared.k_empty[i], kConsumerWarps);
      init_barrier(&shared.v_full[i], 1);
      init_barrier(&shared.v_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < T::kWorkSlots; ++i) {
      init_barrier(&shared.work_full[i], 1);
      init_barrier(&shared.work_empty[i], 128 * T::kConsumers + 1);
    }
    fence_barrier_init();
  }
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    lower_register_limit<T::kProducerRegisters>();
    if (threadIdx.x == 0) {
      prefetch_tensor_map(&arguments.k);
      prefetch_tensor_map(&arguments.v);
      if (arguments.mask.panels > 0) prefetch_tensor_map(&arguments.mask.map);
      Sm90KeyProducer<T>{arguments, shared}.run();
    } else if (threadIdx.x == 32) {
      prefetch_tensor_map(&arguments.q);
      Sm90TileProducer<T>{arguments, shared}.run();
    }
  } else {
    raise_register_limit<T::kConsumerRegisters>();
    const int warp = __shfl_sync(~0u, threadIdx.x % 128 / 32, 0);
    Sm90Consumer<T> consumer{arguments, shared, warpgroup - 1, warp};
    consumer.run();
  }
#endif
}

}  // namespace flashonnx::cuda

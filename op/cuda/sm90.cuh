// Forward attention for compute capability 9.0: one producer warp feeds K and V through TMA into a ring of shared
// memory, 2 or 3 consumer warpgroups of 64 query rows each run wgmma and softmax.
//
// Within a consumer, the next block's Q K^T runs while this block's softmax does, and P never leaves the registers.
// Between consumers, a token passed by named barriers lets one issue its products while another is in its softmax.
// After Shah et al., "FlashAttention-3" (arXiv 2407.08608), sections 3.1 and 3.2.
#pragma once

#include "op/cuda/output.cuh"
#include "op/cuda/ptx/wgmma.cuh"
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
  uint32_t tile_count = 0;  // tiles so far, and those of them that have keys, which need Q
  uint32_t q_count = 0;
  float scores[kScores];
  float output[kOutputs];
  uint32_t p[kScores / 2];  // probabilities, as the A operand of P V
  RowState states[2];
  float correction[2];
  MaskValues<Element, kScores> mask;  // of the next block

  __device__ void run() {
    if (T::kTakeTurns && group == 0) named_barrier_arrive(kFirstTurn, 256);
    while (true) {
      const int slot = tile_count % 2;
      wait(&shared.work_full[slot], tile_count / 2 % 2);
      const Sm90Work& work = shared.work[slot];
      if (work.tile.block < 0) return;
      start_rows();
      if (work.blocks.begin < work.blocks.end) attend(work);
      finish(work.tile);
      release(&shared.work_empty[slot]);
      ++tile_count;
    }
  }

 private:
  // Natural logarithms per score unit.
  __device__ float unit() const { return T::kModified ? 1.f : static_cast<float>(arguments.problem.scale); }

  // One arrival a warp.
  __device__ void release(uint64_t* barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(barrier);
  }

  __device__ int query(int block, int r) const {
    return block * T::kQTile + T::kGroupRows * group + 16 * warp + threadIdx.x % 32 / 4 + 8 * r;
  }

  __device__ void start_rows() {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) output[i] = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) states[r] = RowState{};
  }

  // The K of this step and the V of the one before share no buffer, but have the same place in their rings.
  __device__ int stage(uint32_t step) const { return step % T::kStages; }
  __device__ uint32_t phase(uint32_t step) const { return step / T::kStages % 2; }

  __device__ void attend(const Sm90Work& work) {
    wait(&shared.q_full[group], q_count++ % 2);
    const int begin = work.blocks.begin;
    int n = work.blocks.end - 1;
    prefetch_mask(work, n);
    wait(&shared.k_full[stage(step_count)], phase(step_count));
    issue_scores();
    wgmma_wait<0>();
    pin(scores);
    release(&shared.k_empty[stage(step_count)]);
    if (n == begin) release(&shared.q_empty[group]);
    if (T::kModified || n >= work.blocks.unmasked_end || n < work.blocks.unmasked_begin) {
      softmax(work, n, std::true_type{});
    } else {
      softmax(work, n, std::false_type{});
    }
    pack_probabilities();
    clear_padding_rows(static_cast<int>(work.limits.keys) - n * T::kKeyTile);
    ++step_count;

    // The blocks at both ends of the range need a mask, the many between do not.
    const int masked_from = T::kModified ? begin : max(work.blocks.unmasked_end, begin);
    const int masked_below = max(work.blocks.unmasked_begin, begin);
#pragma unroll 1
    for (--n; n >= masked_from; --n) step(work, n, begin, std::true_type{});
    if constexpr (!T::kModified) {
#pragma unroll 1
      for (; n >= masked_below; --n) step(work, n, begin, std::false_type{});
#pragma unroll 1
      for (; n >= begin; --n) step(work, n, begin, std::true_type{});
    }

    wait(&shared.v_full[stage(step_count - 1)], phase(step_count - 1));
    issue_output();
    wgmma_wait<0>();
    pin(output);
    release(&shared.v_empty[stage(step_count - 1)]);
  }

  // Q K^T of block n, P V of the block before it, and, while that runs, the softmax of block n.
  template <typename Masked>
  __device__ void step(const Sm90Work& work, int n, int begin, Masked masked) {
    prefetch_mask(work, n);
    wait(&shared.k_full[stage(step_count)], phase(step_count));
    take_turn();
    issue_scores();
    wait(&shared.v_full[stage(step_count - 1)], phase(step_count - 1));
    issue_output();
    pass_turn();
    wgmma_wait<1>();
    pin(scores);
    release(&shared.k_empty[stage(step_count)]);
    if (n == begin) release(&shared.q_empty[group]);
    softmax(work, n, masked);
    finish_softmax_here();
    wgmma_wait<0>();
    pin(output);
    release(&shared.v_empty[stage(step_count - 1)]);
    rescale(output, correction);
    pack_probabilities();
    ++step_count;
  }

  __device__ void issue_scores() {
    const uint64_t q = matrix_descriptor(shared.q + group * T::kGroupPanelBytes, 0);
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
      wgmma_registers<Element>(output, p + 4 * step, advance(v, step * 16 * 128));
    }
    wgmma_commit();
  }

  static __device__ int first_column(int n) { return n * T::kKeyTile + 2 * (threadIdx.x % 4); }

  // Made anew for each block that needs them: there are no registers to keep them in.
  __device__ void make_rows(const Sm90Work& work, RowRules (&rows)[2]) const {
    const int last = static_cast<int>(arguments.problem.q_sequence_length) - 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows[r] = row_rules(arguments.problem, work.limits, work.tile.batch, work.tile.head,
                          min(query(work.tile.block, r), last));
    }
  }

  // Before the products that give the block's scores, so that it travels while they run.
  __device__ void prefetch_mask(const Sm90Work& work, int n) {
    if constexpr (T::kModified) {
      RowRules rows[2];
      make_rows(work, rows);
      fetch_mask(mask, first_column(n), score_rules(arguments.problem), rows);
    }
  }

  template <typename Masked>
  __device__ void softmax(const Sm90Work& work, int n, Masked) {
    if constexpr (T::kModified || Masked::value) {
      RowRules rows[2];
      make_rows(work, rows);
      if constexpr (T::kModified) {
        modify_scores(scores, mask, first_column(n), score_rules(arguments.problem), rows);
      } else {
        mask_outside(scores, first_column(n), rows);
      }
    }
    softmax_step<T::kModified>(scores, states, unit() * kLog2E, correction);
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

  __device__ void take_turn() {
    if constexpr (T::kTakeTurns) named_barrier_sync(kFirstTurn + group, 256);
  }

  __device__ void pass_turn() {
    if constexpr (T::kTakeTurns) {
      named_barrier_arrive(kFirstTurn + (group + 1 == T::kConsumers ? 0 : group + 1), 256);
    }
  }

  __device__ void finish(Tile tile) {
    const Problem& problem = arguments.problem;
    OutputRow<Element> targets[2];
    const float* sinks[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = query(tile.block, r);
      if (i < problem.q_sequence_length) targets[r] = output_row<Element>(problem, tile.batch, tile.head, i);
      sinks[r] = problem.sinks != nullptr ? problem.sinks + tile.head : nullptr;
    }
    finish_rows<true>(output, states, unit(), sinks, targets, static_cast<int>(problem.v_head_size));
  }
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 1) sm90_forward(const __grid_constant__ Sm90Arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char dynamic_shared[];
  auto& shared =
      *reinterpret_cast<Sm90Shared<T>*>((reinterpret_cast<uintptr_t>(dynamic_shared) + 1023) & ~uintptr_t{1023});
  if (threadIdx.x == 0) {
    constexpr int kConsumerWarps = 4 * T::kConsumers;
    for (int i = 0; i < T::kConsumers; ++i) {
      init_barrier(&shared.q_full[i], 1);
      init_barrier(&shared.q_empty[i], 4);
    }
    for (int i = 0; i < T::kStages; ++i) {
      init_barrier(&shared.k_full[i], 1);
      init_barrier(&shared.k_empty[i], kConsumerWarps);
      init_barrier(&shared.v_full[i], 1);
      init_barrier(&shared.v_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < 2; ++i) {
      init_barrier(&shared.work_full[i], 1);
      init_barrier(&shared.work_empty[i], kConsumerWarps + 1);  // and the one that loads Q
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
      Sm90KeyProducer<T>{arguments, shared}.run();
    } else if (threadIdx.x == 32) {
      prefetch_tensor_map(&arguments.q);
      Sm90QueryProducer<T>{arguments, shared}.run();
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

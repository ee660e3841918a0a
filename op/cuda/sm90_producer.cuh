// The sm_90 kernel's tile, what its warps share, and the threads that fill it through TMA.
#pragma once

#include "op/cuda/key_blocks.cuh"
#include "op/cuda/ptx/tma.cuh"
#include "op/cuda/tile_order.h"

namespace flashonnx::cuda {

template <typename Element_, int kHeadSize_, int kVHeadSize_, int kQTile_, int kKeyTile_, bool kModified_>
struct Sm90Tile {
  using Element = Element_;
  static constexpr int kHeadSize = kHeadSize_;    // head_size, or the next size there is a kernel for
  static constexpr int kVHeadSize = kVHeadSize_;  // likewise v_head_size
  static constexpr int kQTile = kQTile_;
  static constexpr int kKeyTile = kKeyTile_;
  static constexpr bool kModified = kModified_;  // scores need more than scale and an interval

  static constexpr int kConsumers = kQTile / 64;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kStages = 2;
  static constexpr int kPanel = 64;  // columns of a 128-byte row
  static constexpr int kPanels = (kHeadSize + kPanel - 1) / kPanel;
  static constexpr int kVPanels = (kVHeadSize + kPanel - 1) / kPanel;
  static constexpr int kGroupRows = 64;  // of one consumer
  static constexpr int kQPanelBytes = kQTile * 128;
  static constexpr int kGroupPanelBytes = kGroupRows * 128;
  static constexpr int kKeyPanelBytes = kKeyTile * 128;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
  // With wide heads the products alone keep the tensor cores busy, and taking turns only costs.
  static constexpr bool kTakeTurns = kHeadSize <= 128;
};

// A tile as the producer hands it out; block -1: there are no more.
struct Sm90Work {
  Tile tile;
  KeyBlocks blocks;
  KeyLimits limits;
};

template <typename T>
struct Sm90Shared {
  alignas(1024) char q[T::kPanels * T::kQPanelBytes];
  alignas(1024) char k[T::kStages][T::kPanels * T::kKeyPanelBytes];
  alignas(1024) char v[T::kStages][T::kVPanels * T::kKeyPanelBytes];
  uint64_t q_full[T::kConsumers], q_empty[T::kConsumers];  // of each consumer's 64 rows
  uint64_t k_full[T::kStages], k_empty[T::kStages];
  uint64_t v_full[T::kStages], v_empty[T::kStages];
  uint64_t work_full[2], work_empty[2];
  Sm90Work work[2];
};

struct Sm90Arguments {
  CUtensorMap q, k, v;
  Problem problem;
  TileOrder order;
};

// One thread that hands out tiles and keeps the rings of K and V full, running ahead of the consumers.
template <typename T>
struct Sm90KeyProducer {
  const Sm90Arguments& arguments;
  Sm90Shared<T>& shared;

  RingPosition<T::kStages> k_ring, v_ring;
  RingPosition<2> work_ring;

  __device__ void run() {
    const TileOrder& order = arguments.order;
    for (int index = blockIdx.x; index < order.tiles;) {
      const int next = gridDim.x + (order.counter != nullptr ? atomicAdd(order.counter, 1) : index);
      Sm90Work work;
      work.tile = order.tile(index);
      work.limits = limits_of(arguments.problem, work.tile.batch);
      work.blocks = key_blocks<T::kQTile, T::kKeyTile>(arguments.problem, work.limits, work.tile.block);
      hand_out(work);
      load_keys(work);
      index = next;
    }
    Sm90Work none;
    none.tile.block = -1;
    hand_out(none);
  }

 private:
  __device__ void hand_out(const Sm90Work& work) {
    wait(&shared.work_empty[work_ring.stage], work_ring.phase ^ 1);
    shared.work[work_ring.stage] = work;
    arrive(&shared.work_full[work_ring.stage]);
    work_ring.advance();
  }

  // A block's V is needed one product later than its K.
  __device__ void load_keys(const Sm90Work& work) {
    const Problem& problem = arguments.problem;
    const int head = work.tile.head / static_cast<int>(problem.q_num_heads / problem.kv_num_heads);
    for (int n = work.blocks.end - 1; n >= work.blocks.begin; --n) {
      load_block<T::kPanels>(&arguments.k, shared.k[k_ring.stage], shared.k_full, shared.k_empty, n, head,
                             work.tile.batch, k_ring);
      if (n + 1 < work.blocks.end) load_v(n + 1, head, work.tile.batch);
    }
    if (work.blocks.begin < work.blocks.end) load_v(work.blocks.begin, head, work.tile.batch);
  }

  __device__ void load_v(int n, int head, int batch) {
    load_block<T::kVPanels>(&arguments.v, shared.v[v_ring.stage], shared.v_full, shared.v_empty, n, head, batch,
                            v_ring);
  }

  template <int kPanels>
  __device__ void load_block(const CUtensorMap* map, char* buffer, uint64_t* full, uint64_t* empty, int n, int head,
                             int batch, RingPosition<T::kStages>& ring) {
    wait(&empty[ring.stage], ring.phase ^ 1);
    arrive_and_expect(&full[ring.stage], kPanels * T::kKeyPanelBytes);
    const uint64_t often = l2_policy<L2Hint::kEvictLast>();
    for (int panel = 0; panel < kPanels; ++panel) {
      load_box(buffer + panel * T::kKeyPanelBytes, map, &full[ring.stage], often, panel * T::kPanel, n * T::kKeyTile,
               head, batch);
    }
    ring.advance();
  }
};

// One thread that loads Q for each consumer as soon as that one is done with its rows of the tile before.
template <typename T>
struct Sm90QueryProducer {
  const Sm90Arguments& arguments;
  Sm90Shared<T>& shared;

  __device__ void run() {
    RingPosition<2> work_ring;
    uint32_t phase = 1;
    while (true) {
      wait(&shared.work_full[work_ring.stage], work_ring.phase);
      const Sm90Work work = shared.work[work_ring.stage];
      arrive(&shared.work_empty[work_ring.stage]);
      work_ring.advance();
      if (work.tile.block < 0) return;
      if (work.blocks.begin >= work.blocks.end) continue;
      for (int group = 0; group < T::kConsumers; ++group) {
        wait(&shared.q_empty[group], phase);
        load_rows(work.tile, group);
      }
      phase ^= 1;
    }
  }

 private:
  __device__ void load_rows(Tile tile, int group) {
    arrive_and_expect(&shared.q_full[group], T::kPanels * T::kGroupPanelBytes);
    const uint64_t once = l2_policy<L2Hint::kEvictFirst>();
    for (int panel = 0; panel < T::kPanels; ++panel) {
      load_box(shared.q + panel * T::kQPanelBytes + group * T::kGroupPanelBytes, &arguments.q, &shared.q_full[group],
               once, panel * T::kPanel, tile.block * T::kQTile + group * T::kGroupRows, tile.head, tile.batch);
    }
  }
};

}  // namespace flashonnx::cuda

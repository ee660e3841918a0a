// The sm_90 kernel's producer warps: they hand out tiles and fill shared memory ahead of the consumers.
#pragma once

#include "op/cuda/ptx/tma.cuh"
#include "op/cuda/sm90_tile.cuh"

namespace flashonnx::cuda {

// One thread that hands out tiles, and loads Q for each consumer as soon as that one is done with its rows of an
// earlier tile.
template <typename T>
struct Sm90TileProducer {
  const Sm90Arguments& arguments;
  Sm90Shared<T>& shared;

  RingPosition<T::kWorkSlots> work_ring;
  RingPosition<T::kQStages> q_ring;

  __device__ void run() {
    for (int index = blockIdx.x; index < arguments.order.tiles;) {
      const int next = draw(index);
      const Sm90Work<T> work = describe(arguments.order.tile(index));
      hand_out(work);
      if (work.blocks.begin < work.blocks.end) load_q(work.tile);
      index = next;
    }
    Sm90Work<T> none;
    none.tile.block = -1;
    hand_out(none);
  }

 private:
  __device__ int draw(int index) const {
    int* counter = arguments.order.counter;
    return gridDim.x + (counter != nullptr ? atomicAdd(counter, 1) : index);
  }

  __device__ Sm90Work<T> describe(Tile tile) const {
    const Problem& problem = arguments.problem;
    Sm90Work<T> work;
    work.tile = tile;
    work.limits = key_limits(problem, tile.batch);
    work.blocks = key_blocks<T::kQTile, T::kKeyTile>(problem, work.limits, tile.block);
#pragma unroll
    for (int group = 0; group < T::kConsumers; ++group) {
      const int rows = tile.block * T::kConsumers + group;
      const KeyBlocks blocks = key_blocks<T::kGroupRows, T::kKeyTile>(problem, work.limits, rows);
      work.group_end[group] = max(blocks.end, work.blocks.begin);
    }
    return work;
  }

  __device__ void hand_out(const Sm90Work<T>& work) {
    wait(&shared.work_empty[work_ring.stage], work_ring.phase ^ 1);
    shared.work[work_ring.stage] = work;
    arrive(&shared.work_full[work_ring.stage]);
    work_ring.advance();
  }

  __device__ void load_q(Tile tile) {
    for (int group = 0; group < T::kConsumers; ++group) {
      wait(&shared.q_empty[q_ring.stage][group], q_ring.phase ^ 1);
      load_rows(tile, group, q_ring.stage);
    }
    q_ring.advance();
  }

  __device__ void load_rows(Tile tile, int group, int stage) {
    uint64_t* full = &shared.q_full[stage][group];
    arrive_and_expect(full, T::kPanels * T::kGroupPanelBytes);
    const uint64_t once = l2_policy<L2Hint::kEvictFirst>();
    for (int panel = 0; panel < T::kPanels; ++panel) {
      load_box(shared.q[stage] + panel * T::kQPanelBytes + group * T::kGroupPanelBytes, &arguments.q, full, once,
               panel * T::kPanel, tile.block * T::kQTile + group * T::kGroupRows, tile.head, tile.batch);
    }
  }
};

// One thread that keeps the rings of K and V full, and that of attn_mask, which travels with K.
template <typename T>
struct Sm90KeyProducer {
  const Sm90Arguments& arguments;
  Sm90Shared<T>& shared;

  RingPosition<T::kWorkSlots> work_ring;
  RingPosition<T::kStages> k_ring, v_ring;

  __device__ void run() {
    while (true) {
      wait(&shared.work_full[work_ring.stage], work_ring.phase);
      const Sm90Work<T> work = shared.work[work_ring.stage];
      arrive(&shared.work_empty[work_ring.stage]);
      work_ring.advance();
      if (work.tile.block < 0) return;
      load_keys(work);
    }
  }

 private:
  // A block's V is needed one product later than its K.
  __device__ void load_keys(const Sm90Work<T>& work) {
    const int head = work.tile.head / static_cast<int>(arguments.problem.q_num_heads / arguments.problem.kv_num_heads);
    for (int n = work.blocks.end - 1; n >= work.blocks.begin; --n) {
      load_k(work.tile, n, head);
      if (n + 1 < work.blocks.end) load_v(n + 1, head, work.tile.batch);
    }
    if (work.blocks.begin < work.blocks.end) load_v(work.blocks.begin, head, work.tile.batch);
  }

  __device__ void load_k(Tile tile, int n, int head) {
    const int mask_bytes = arguments.mask.panels * (arguments.mask.by_rows ? T::kMaskPanelBytes : 128);
    const int bytes = T::kPanels * T::kKeyPanelBytes + (T::kModified ? mask_bytes : 0);
    uint64_t* full = next_buffer(k_ring, shared.k_full, shared.k_empty, bytes);
    load_block<T::kPanels>(&arguments.k, shared.k[k_ring.stage], full, n, head, tile.batch);
    if constexpr (T::kModified) load_mask(tile, n, full);
    k_ring.advance();
  }

  __device__ void load_v(int n, int head, int batch) {
    uint64_t* full = next_buffer(v_ring, shared.v_full, shared.v_empty, T::kVPanels * T::kKeyPanelBytes);
    load_block<T::kVPanels>(&arguments.v, shared.v[v_ring.stage], full, n, head, batch);
    v_ring.advance();
  }

  // Waits until a ring's next buffer is free; on the barrier returned, `bytes` will arrive in it.
  __device__ uint64_t* next_buffer(const RingPosition<T::kStages>& ring, uint64_t* full, uint64_t* empty, int bytes) {
    wait(&empty[ring.stage], ring.phase ^ 1);
    arrive_and_expect(&full[ring.stage], bytes);
    return &full[ring.stage];
  }

  template <int kPanels>
  __device__ void load_block(const CUtensorMap* map, char* buffer, uint64_t* full, int n, int head, int batch) {
    const uint64_t often = l2_policy<L2Hint::kEvictLast>();
    for (int panel = 0; panel < kPanels; ++panel) {
      load_box(buffer + panel * T::kKeyPanelBytes, map, full, often, panel * T::kPanel, n * T::kKeyTile, head, batch);
    }
  }

  __device__ void load_mask(Tile tile, int n, uint64_t* full) {
    const Sm90Mask& mask = arguments.mask;
    const int row = mask.by_rows ? tile.block * T::kQTile : 0;
    const int head = mask.by_heads ? tile.head : 0;
    const int batch = mask.by_batches ? tile.batch : 0;
    const uint64_t often = l2_policy<L2Hint::kEvictLast>();
    for (int panel = 0; panel < mask.panels; ++panel) {
      load_box(shared.mask[k_ring.stage] + panel * T::kMaskPanelBytes, &mask.map, full, often,
               n * T::kKeyTile + panel * mask.panel_columns, row, head, batch);
    }
  }
};

}  // namespace flashonnx::cuda

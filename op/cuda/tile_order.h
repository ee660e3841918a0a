// In which order a persistent grid takes its tiles: one tile is a block of query rows of one head of one batch entry.
//
// Without a mask all tiles cost the same and blocks take every gridDim-th one, head by head, so that neighbours share
// K and V in L2. Where costs differ (causal, windows, padding) the longest come first and blocks draw the next tile
// from a counter, if there are more tiles than blocks; heads then go in groups whose K and V fit into L2 together.
#pragma once

#include <algorithm>
#include <cstdint>

#include "op/core/key_range.h"
#include "op/cuda/tiles.h"

namespace flashonnx::cuda {

struct Tile {
  int block = 0;  // of query rows
  int head = 0;   // of Q
  int batch = 0;
};

struct TileOrder {
  int blocks = 0;  // of query rows, per head
  int heads = 0;
  int tiles = 0;
  int group = 1;  // heads (over all batch entries) that are taken together
  bool longest_first = false;
  int* counter = nullptr;  // zeroed before the launch; null: static order

  FLASHONNX_HOST_DEVICE Tile tile(int index) const {
    const int group_tiles = group * blocks;
    const int first = index / group_tiles * group;
    const int rest = index - first * blocks;
    const int all_heads = tiles / blocks;
    const int heads_here = first + group <= all_heads ? group : all_heads - first;
    Tile tile;
    int head;
    if (longest_first) {
      tile.block = blocks - 1 - rest / heads_here;
      head = first + rest % heads_here;
    } else {
      head = first + rest / blocks;
      tile.block = rest % blocks;
    }
    tile.batch = head / heads;
    tile.head = head - tile.batch * heads;
    return tile;
  }
};

// Whether blocks, one a multiprocessor, draw tiles from a counter.
inline bool draws_tiles(const Problem& problem, int q_tile, int multiprocessors) {
  const bool cost_the_same = uniform_keys(problem) || (row_blocks(problem, q_tile) == 1 && !problem.nonpad_kv_seqlen);
  return !cost_the_same && all_tiles(problem, q_tile) > multiprocessors;
}

inline TileOrder tile_order(const Problem& problem, int q_tile, int64_t l2_bytes, int* counter) {
  TileOrder order;
  order.blocks = static_cast<int>(row_blocks(problem, q_tile));
  order.heads = static_cast<int>(problem.q_num_heads);
  const int64_t all_heads = problem.batch_size * problem.q_num_heads;
  order.tiles = static_cast<int>(all_tiles(problem, q_tile));
  order.longest_first = !uniform_keys(problem);
  const int64_t kv_head_bytes =
      problem.total_sequence_length() * (problem.head_size + problem.v_head_size) * size_of(problem.dtype);
  const int64_t kv_heads = std::max<int64_t>(1, l2_bytes / 2 / std::max<int64_t>(1, kv_head_bytes));
  order.group = static_cast<int>(std::min(all_heads, kv_heads * problem.group_size()));
  order.counter = counter;
  return order;
}

}  // namespace flashonnx::cuda

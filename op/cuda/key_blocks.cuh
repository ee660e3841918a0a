// Which blocks of keys a tile of query rows walks: from op/core/key_range.h, in units of a kernel's key tile.
#pragma once

#include "op/core/key_range.h"
#include "op/core/problem.h"

namespace flashonnx::cuda {

// Walked from last to first; those in [unmasked_begin, unmasked_end) need no mask. Empty where begin == end.
struct KeyBlocks {
  int begin = 0;
  int end = 0;
  int unmasked_begin = 0;
  int unmasked_end = 0;
};

template <int kQTile, int kKeyTile>
__device__ inline KeyBlocks key_blocks(const Problem& problem, const KeyLimits& limits, int block) {
  const int64_t first = static_cast<int64_t>(block) * kQTile;
  if (first >= problem.q_sequence_length) return {};
  const int64_t last = min(first + kQTile, problem.q_sequence_length) - 1;
  const KeyRange any = limits.rows(first, last);
  const KeyRange every = limits.every_row(first, last);
  KeyBlocks blocks;
  if (any.begin >= any.end) return blocks;
  blocks.begin = static_cast<int>(any.begin) / kKeyTile;
  blocks.end = (static_cast<int>(any.end) + kKeyTile - 1) / kKeyTile;
  blocks.unmasked_begin = (static_cast<int>(every.begin) + kKeyTile - 1) / kKeyTile;
  blocks.unmasked_end = every.end > 0 ? static_cast<int>(every.end) / kKeyTile : 0;
  return blocks;
}

}  // namespace flashonnx::cuda

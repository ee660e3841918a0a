// Blocks of keys: which ones, and where their rows are.
#pragma once

#include "op/cpu/kernel/values.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// A panel's scores then stay in L1; a multiple of kMaxBroadcasts, so that no group of keys is cut short.
constexpr int64_t kBlockKeys = 192;
constexpr int64_t kShortBlockKeys = 64;
constexpr float kNever = -__builtin_inff();

// Keys [begin, end).
struct KeySpan {
  int64_t begin, end;

  bool empty() const { return begin >= end; }
  int64_t size() const { return end - begin; }
  bool contains(KeySpan other) const { return begin <= other.begin && other.end <= end; }
  KeySpan within(KeySpan other) const {
    return {begin > other.begin ? begin : other.begin, end < other.end ? end : other.end};
  }
  KeySpan joined(KeySpan other) const {
    if (empty()) return other;
    if (other.empty()) return *this;
    return {begin < other.begin ? begin : other.begin, end > other.end ? end : other.end};
  }
};

// Rows of floats, `stride` apart.
struct Rows {
  const float* data;
  int64_t stride;

  const float* row(int64_t i) const { return data + i * stride; }
};

// The keys that any of the rows may see.
inline KeySpan span_of_any(const TileRow* rows, int count) {
  KeySpan span{0, 0};
  for (int r = 0; r < count; ++r) span = span.joined({rows[r].begin, rows[r].end});
  return span;
}

// Calls body(segment, keys) for each block, of at most block_keys, of the keys in `span`, in order.
template <typename Body>
inline void for_each_block(const Tile& tile, KeySpan span, int64_t block_keys, const Body& body) {
  for (int s = 0; s < tile.segments; ++s) {
    const KeySegment& segment = tile.segment[s];
    const KeySpan keys = span.within({segment.begin, segment.end});
    for (int64_t begin = keys.begin; begin < keys.end; begin += block_keys) {
      body(segment, KeySpan{begin, begin + block_keys}.within(keys));
    }
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Keys and values that will be read next, asked for a little at a time while others are multiplied.
#pragma once

#include "op/cpu/kernel/block.h"
#include "op/cpu/kernel/values.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// Rows of K or V as they lie in memory.
struct StoredRows {
  const char* data;
  int64_t stride;  // in bytes

  const char* row(int64_t i) const { return data + i * stride; }
};

// Rows on their way to the second-level cache, line after line: asked for at once, they would fill the buffers that the
// reader's own misses need.
class Lines {
 public:
  // `count` rows, at least one.
  Lines(const StoredRows& rows, int64_t count, int64_t row_bytes)
      : next_(rows.data), stride_(rows.stride), row_bytes_(row_bytes), rows_left_(count - 1) {
    if (rows.stride == row_bytes) {
      row_bytes_ = count * row_bytes;
      rows_left_ = 0;
    }
    row_end_ = next_ + row_bytes_;
  }

  // After the last line come those of the last row again, which costs little.
  __attribute__((always_inline)) void ask(int lines) {
    for (int i = 0; i < lines; ++i) {
      __builtin_prefetch(next_, 0, 2);
      next_ += kLine;
      if (next_ >= row_end_) end_row();
    }
  }

  static constexpr int64_t kLine = 64;

 private:
  void end_row() {
    if (rows_left_ > 0) {
      --rows_left_;
      row_end_ += stride_;
    }
    next_ = row_end_ - row_bytes_;
  }

  const char* next_;
  const char* row_end_;
  int64_t stride_, row_bytes_, rows_left_;
};

// Rows of K and of V, both at once: memory serves two streams faster than one.
class NextKeys {
 public:
  // `keys` of the segment; its first one where there are none.
  NextKeys(const Tile& tile, const KeySegment& segment, KeySpan keys)
      : k_(lines(tile, segment.k, segment.k_row_stride, segment, keys, tile.head_size)),
        v_(lines(tile, segment.v, segment.v_row_stride, segment, keys, tile.v_head_size)) {}

  // `lines` of either.
  __attribute__((always_inline)) void ask(int lines) {
    k_.ask(lines);
    v_.ask(lines);
  }

 private:
  static Lines lines(const Tile& tile, const void* rows, int64_t stride, const KeySegment& segment, KeySpan keys,
                     int64_t columns) {
    const int64_t first = keys.empty() ? 0 : keys.begin - segment.begin, count = keys.empty() ? 1 : keys.size();
    return {{element(tile.dtype, rows, first * stride), stride * bytes_of(tile.dtype)},
            count,
            columns * bytes_of(tile.dtype)};
  }

  Lines k_, v_;
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

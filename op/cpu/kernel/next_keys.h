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

// Rows of K and of V on their way to the second-level cache, line after line: asked for at once, they would fill the
// buffers that the reader's own misses need. A line of K and one of V at a time, since memory serves two streams faster
// than one; side by side, so that one count serves both.
class NextKeys {
 public:
  // `keys` of the segment; its first one where there are none.
  NextKeys(const Tile& tile, const KeySegment& segment, KeySpan keys)
      : row_bytes_(row_bytes(tile)),
        k_stride_(segment.k_row_stride * bytes_of(tile.dtype)),
        v_stride_(segment.v_row_stride * bytes_of(tile.dtype)),
        rows_left_(keys.empty() ? 0 : keys.size() - 1) {
    const int64_t first = keys.empty() ? 0 : keys.begin - segment.begin;
    k_ = static_cast<const char*>(segment.k) + first * k_stride_;
    v_ = static_cast<const char*>(segment.v) + first * v_stride_;
    if (k_stride_ == row_bytes_ && v_stride_ == row_bytes_) {
      row_bytes_ *= rows_left_ + 1;
      rows_left_ = 0;
    }
  }

  // `lines` of either. After the last come those of the last row again, which costs little.
  __attribute__((always_inline)) void ask(int lines) {
    for (int i = 0; i < lines; ++i) {
      __builtin_prefetch(k_ + byte_, 0, 2);
      __builtin_prefetch(v_ + byte_, 0, 2);
      byte_ += kLine;
      if (byte_ >= row_bytes_) end_row();
    }
  }

  // Lines of either that `rows` keys are.
  static int64_t lines(const Tile& tile, int64_t rows) { return rows * ((row_bytes(tile) + kLine - 1) / kLine); }

  static constexpr int64_t kLine = 64;

 private:
  // Of K or V, whose rows are longer.
  static int64_t row_bytes(const Tile& tile) {
    return (tile.head_size > tile.v_head_size ? tile.head_size : tile.v_head_size) * bytes_of(tile.dtype);
  }

  void end_row() {
    byte_ = 0;
    if (rows_left_ == 0) return;
    --rows_left_;
    k_ += k_stride_;
    v_ += v_stride_;
  }

  const char* k_;
  const char* v_;
  int64_t byte_ = 0;
  int64_t row_bytes_, k_stride_, v_stride_, rows_left_;
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// The tiled kernel's products in float: Q is packed once a tile, K and V are read where they are, or converted a block
// at a time. Compiled once for each instruction set.
#include "op/cpu/kernel/tiled.h"

#include "op/cpu/kernel/tiled_kernel.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

class FloatProducts {
 public:
  struct Scratch {
    Scratch(Carver& carver, int64_t rows, int64_t head_size, int64_t v_head_size)
        : q(carver.take(rows * head_size)),
          k(carver.take(kBlockKeys * head_size)),
          v(carver.take(kBlockKeys * v_head_size)) {}

    float* q;  // (panel, head_size, kPanelRows), times q_scale
    float* k;  // (key, head_size), converted
    float* v;  // (key, v_head_size), converted
  };

  FloatProducts(const Tile& tile, const Scratch& scratch) : tile_(tile), scratch_(scratch) {}

  void pack_queries(const TileRow* rows, int count, int first) {
    float* q = scratch_.q + first * tile_.head_size;
    for (int r = 0; r < kPanelRows; r += kLanes) {
      for (int64_t d = 0; d < tile_.head_size; d += kLanes) {
        if (r + kLanes <= count && d + kLanes <= tile_.head_size) {
          pack_whole(rows + r, d, q + d * kPanelRows + r);
        } else {
          pack_part(rows + r, count - r, d, q + d * kPanelRows + r);
        }
      }
    }
  }

  void load_block(const KeySegment& segment, KeySpan keys) {
    const int64_t skipped = keys.begin - segment.begin;
    k_ = load_rows(segment.k, segment.k_row_stride, skipped, keys.size(), tile_.head_size, scratch_.k);
    v_ = load_rows(segment.v, segment.v_row_stride, skipped, keys.size(), tile_.v_head_size, scratch_.v);
  }

  Maxima score(int first, KeySpan keys, Ahead& ahead, float* scores) const {
    return score_all(k_.row(keys.begin), k_.stride, keys.size(), scratch_.q + first * tile_.head_size, tile_.head_size,
                     ahead, scores);
  }

  void add_values(int, KeySpan keys, float* p, const float* factor, Ahead& ahead, float* o) const {
    add_all_values(v_.row(keys.begin), v_.stride, keys.size(), tile_.v_head_size, p, factor, ahead, o);
  }

 private:
  // Of kLanes rows the columns from d on, all kLanes of which exist: everything stays in registers.
  void pack_whole(const TileRow* rows, int64_t d, float* q) const {
    const Vec scale = broadcast(tile_.q_scale);
    Vec columns[kLanes];
    for (int r = 0; r < kLanes; ++r) columns[r] = load_all(tile_.dtype, element(tile_.dtype, rows[r].q, d));
    transpose(columns);
    for (int c = 0; c < kLanes; ++c) store(q + c * kPanelRows, columns[c] * scale);
  }

  // Of `used` rows the columns that are left; the lanes of other rows become 0.
  void pack_part(const TileRow* rows, int used, int64_t d, float* q) const {
    const Vec scale = broadcast(tile_.q_scale), zero = broadcast(0.0f);
    Vec columns[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      columns[r] = r < used ? load_values(tile_.dtype, rows[r].q, d, tile_.head_size - d) : zero;
    }
    transpose(columns);
    for (int c = 0; c < kLanes && d + c < tile_.head_size; ++c) store(q + c * kPanelRows, columns[c] * scale);
  }

  // Rows as floats, where they are or copied. Rows that lie apart, as in (batch, row, head, column) tensors, are copied
  // too where enough panels read the copy: powers of two between rows crowd them into a few sets of the caches.
  Rows load_rows(const void* rows, int64_t stride, int64_t first, int64_t count, int64_t columns, float* copy) {
    constexpr int kRowsToCopyFor = 3 * kPanelRows + 1;
    if (tile_.dtype == DType::kFloat && (stride == columns || tile_.rows < kRowsToCopyFor)) {
      return {static_cast<const float*>(rows) + first * stride, stride};
    }
    copy_rows(tile_.dtype, element(tile_.dtype, rows, first * stride), stride, count, columns, copy, columns);
    return {copy, columns};
  }

  const Tile& tile_;
  const Scratch& scratch_;
  Rows k_{}, v_{};  // of the block
};

}  // namespace

void run_tiled(const Tile& tile, float* scratch) { TiledKernel<FloatProducts>(tile, scratch).run(); }

int64_t tiled_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size) {
  return TiledScratch<FloatProducts>(nullptr, rows, head_size, v_head_size).floats();
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

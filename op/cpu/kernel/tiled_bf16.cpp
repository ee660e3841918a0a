// The tiled kernel's products in bfloat16 with float sums: Q and the probabilities are packed in pairs, K is read where
// it is, V is transposed a block at a time. Compiled for each instruction set that multiplies bfloat16.
//
// S^T = K Q^T takes K's rows as they are. O^T = V^T P^T takes P as the softmax left it, lanes along rows, so it is V
// that is transposed, which all panels of the tile share, and not each panel's P. Probabilities are rounded to
// bfloat16; their sum, which divides, is of those before rounding.
#include "op/cpu/kernel/multiply_pairs.h"
#include "op/cpu/kernel/tiled_kernel.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

constexpr int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

class PairProducts {
 public:
  struct Scratch {
    Scratch(Carver& carver, int64_t rows, int64_t head_size, int64_t v_head_size)
        : depth(rounded_up(head_size, kDepthStep)),
          q(take<uint32_t>(carver, rows * depth / 2)),
          k(take<uint16_t>(carver, (kBlockKeys + kRowStep) * depth)),
          v(take<uint16_t>(carver, rounded_up(v_head_size, kRowStep) * kBlockKeys)),
          p(take<uint32_t>(carver, kBlockKeys / 2 * kPanelRows)),
          sums(carver.take(kColumnsTogether * kPanelRows)) {}

    template <typename T>
    static T* take(Carver& carver, int64_t count) {
      return reinterpret_cast<T*>(carver.take(rounded_up(count * static_cast<int64_t>(sizeof(T)), 4) / 4));
    }

    int64_t depth;  // head_size, rounded up
    uint32_t* q;    // (panel, depth / 2, kPanelRows) pairs, times q_scale
    uint16_t* k;    // (key, depth), where it cannot be read in place
    uint16_t* v;    // (v_head_size, kBlockKeys)
    uint32_t* p;    // (key / 2, kPanelRows) pairs
    float* sums;    // (kColumnsTogether, kPanelRows) of O^T
  };

  PairProducts(const Tile& tile, const Scratch& scratch) : tile_(tile), scratch_(scratch) {}

  void pack_queries(const TileRow* rows, int count, int first) {
    const Vec scale = broadcast(tile_.q_scale), zero = broadcast(0.0f);
    uint32_t* q = scratch_.q + first * scratch_.depth / 2;
    for (int r = 0; r < kPanelRows; r += kLanes) {
      for (int64_t d = 0; d < scratch_.depth; d += kLanes) {
        Vec columns[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          const bool used = r + i < count && d < tile_.head_size;
          columns[i] = used ? load_values(tile_.dtype, rows[r + i].q, d, tile_.head_size - d) * scale : zero;
        }
        transpose(columns);
        for (int64_t c = 0; c < kLanes && d + c < scratch_.depth; c += 2) {
          store_pairs(q + (d + c) / 2 * kPanelRows + r, columns[c], columns[c + 1]);
        }
      }
    }
  }

  void load_block(const KeySegment& segment, KeySpan keys) {
    const auto* k = static_cast<const uint16_t*>(segment.k) + (keys.begin - segment.begin) * segment.k_row_stride;
    const auto* v = static_cast<const uint16_t*>(segment.v) + (keys.begin - segment.begin) * segment.v_row_stride;
    // The last rows are read in whole steps, which must not lead past the segment.
    const bool in_place = tile_.head_size == scratch_.depth && keys.end + kRowStep - 1 <= segment.end;
    k_ = in_place ? k : scratch_.k;
    k_stride_ = in_place ? segment.k_row_stride : scratch_.depth;
    if (!in_place) copy_keys(k, segment.k_row_stride, keys.size());
    transpose_values(v, segment.v_row_stride, keys.size());
  }

  Maxima score(int first, KeySpan keys, Ahead& ahead, float* scores) {
    ahead.ask(groups_of(keys.size()));
    multiplier_.multiply(k_ + keys.begin * k_stride_, k_stride_, rounded_up(keys.size(), kRowStep),
                         scratch_.q + first * scratch_.depth / 2, scratch_.depth, scores);
    return maxima_of(scores, keys.size());
  }

  void add_values(int, KeySpan keys, float* p, const float* factor, Ahead& ahead, float* o) {
    ahead.ask(groups_of(tile_.v_head_size));
    const int64_t begin = keys.begin / kDepthStep * kDepthStep;
    const int64_t depth = rounded_up(keys.end, kDepthStep) - begin;
    pack_probabilities(p, keys.begin - begin, keys.size(), depth);
    for (int64_t d = 0; d < tile_.v_head_size; d += kColumnsTogether) {
      const int64_t left = tile_.v_head_size - d;
      const int64_t columns = left < kColumnsTogether ? left : kColumnsTogether;
      multiplier_.multiply(scratch_.v + d * kBlockKeys + begin, kBlockKeys, rounded_up(columns, kRowStep), scratch_.p,
                           depth, scratch_.sums);
      add_sums(columns, factor, o + d * kPanelRows);
    }
  }

 private:
  // Columns from head_size on become 0: those of Q are, but 0 times what memory holds may be NaN.
  void copy_keys(const uint16_t* k, int64_t stride, int64_t count) {
    for (int64_t j = 0; j < count; ++j) {
      uint16_t* row = scratch_.k + j * scratch_.depth;
      std::memcpy(row, k + j * stride, static_cast<size_t>(tile_.head_size) * sizeof *row);
      for (int64_t d = tile_.head_size; d < scratch_.depth; ++d) row[d] = 0;
    }
  }

  // Keys from `count` on, as far as a product reads, become 0.
  void transpose_values(const uint16_t* v, int64_t stride, int64_t count) {
    constexpr int kPairKeys = 2 * kLanes;
    for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
      const int64_t columns = tile_.v_head_size - d < kLanes ? tile_.v_head_size - d : kLanes;
      for (int64_t j = 0; j < rounded_up(count, kDepthStep); j += kPairKeys) {
        Vec pairs[kLanes];
        for (int i = 0; i < kLanes; ++i) pairs[i] = value_pairs(v + d, stride, j + 2 * i, count, columns);
        transpose(pairs);
        for (int64_t c = 0; c < columns; ++c) {
          store(reinterpret_cast<float*>(scratch_.v + (d + c) * kBlockKeys + j), pairs[c]);
        }
      }
    }
  }

  // Of keys j and j + 1; zeros from key `count` and column `columns` on, where nothing is read.
  static Vec value_pairs(const uint16_t* v, int64_t stride, int64_t j, int64_t count, int64_t columns) {
    if (columns == kLanes && j + 1 < count) return load_pairs(v + j * stride, v + (j + 1) * stride);
    uint16_t rows[2][kLanes] = {};
    for (int64_t r = 0; r < 2 && j + r < count; ++r) {
      std::memcpy(rows[r], v + (j + r) * stride, static_cast<size_t>(columns) * sizeof rows[r][0]);
    }
    return load_pairs(rows[0], rows[1]);
  }

  // From (key, kPanelRows) floats: `skipped` zeros, `count` probabilities, zeros up to `depth`.
  void pack_probabilities(const float* p, int64_t skipped, int64_t count, int64_t depth) {
    const Vec zero = broadcast(0.0f);
    for (int r = 0; r < kPanelRows; r += kLanes) {
      const auto probability = [&](int64_t j) {
        return j >= skipped && j < skipped + count ? load(p + (j - skipped) * kPanelRows + r) : zero;
      };
      for (int64_t j = 0; j < depth; j += 2) {
        store_pairs(scratch_.p + j / 2 * kPanelRows + r, probability(j), probability(j + 1));
      }
    }
  }

  void add_sums(int64_t columns, const float* factor, float* o) {
    for (int64_t i = 0; i < columns * kPanelRows; i += kLanes) {
      store(o + i, fma(load(factor + i % kPanelRows), load(o + i), load(scratch_.sums + i)));
    }
  }

  static constexpr int64_t kColumnsTogether = 32;

  const Tile& tile_;
  const Scratch& scratch_;
  PairMultiplier multiplier_;
  const uint16_t* k_ = nullptr;  // of the block
  int64_t k_stride_ = 0;
};

void run(const Tile& tile, float* scratch) { TiledKernel<PairProducts>(tile, scratch).run(); }

int64_t scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size) {
  return TiledScratch<PairProducts>(nullptr, rows, head_size, v_head_size).floats();
}

}  // namespace

const KernelTable kKernels = {{run, scratch_floats}, {}, kPanelRows, {}};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

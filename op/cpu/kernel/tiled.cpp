// The tiled kernel: online softmax over blocks of keys, lanes are query rows. Compiled once for each instruction set.
//
// A tile's rows form panels of kPanelRows. For each block of keys, each panel computes S^T, edits it (softcap, ALiBi,
// mask, range), folds it into the row statistics and adds its product with V; Dao et al. 2022, algorithm 1.
#include "op/cpu/kernel/tiled.h"

#include "op/cpu/kernel/edit.h"
#include "op/cpu/kernel/math.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/values.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

// Where in the scratch each thing lies; sizes in floats, all multiples of 16.
struct Scratch {
  Scratch(float* base, int64_t rows, int64_t head_size, int64_t v_head_size) : next_(base) {
    const int64_t padded = (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
    q = take(padded * head_size);
    o = take(padded * v_head_size);
    m = take(padded);
    l = take(padded);
    factor = take(kPanelRows);
    scores = take(kBlockKeys * kPanelRows);
    bias = take(kBlockKeys * kPanelRows);
    k = take(kBlockKeys * head_size);
    v = take(kBlockKeys * v_head_size);
    floats = next_ - base;
  }

  float* q;       // (panel, head_size, kPanelRows), times q_scale
  float* o;       // (panel, v_head_size, kPanelRows)
  float* m;       // (panel, kPanelRows): row maxima
  float* l;       // (panel, kPanelRows): row sums of exp(score - m)
  float* factor;  // (kPanelRows): exp(old m - new m)
  float* scores;  // (key, kPanelRows), then probabilities
  float* bias;    // (key, kPanelRows), or (key) if shared
  float* k;       // (key, head_size), converted
  float* v;       // (key, v_head_size), converted
  int64_t floats;

 private:
  float* take(int64_t count) {
    float* taken = next_;
    next_ += (count + 15) / 16 * 16;
    return taken;
  }

  float* next_;
};

struct Block {
  KeySpan keys;
  Rows k, v;
};

// Part of a tile that fills the lanes.
struct Panel {
  const TileRow* rows;
  int count;           // the lanes past it repeat the last row
  KeySpan any, every;  // keys that any row may see, and that all may
  float *q, *o, *m, *l;
};

// The keys that all of the rows may see.
KeySpan span_of_all(const TileRow* rows, int count) {
  KeySpan span{rows[0].begin, rows[0].end};
  for (int r = 1; r < count; ++r) {
    if (rows[r].begin > span.begin) span.begin = rows[r].begin;
    if (rows[r].end < span.end) span.end = rows[r].end;
  }
  return span;
}

class TiledKernel {
 public:
  TiledKernel(const Tile& tile, float* scratch)
      : tile_(tile), scratch_(scratch, tile.rows, tile.head_size, tile.v_head_size) {}

  void run() {
    make_panels();
    for_each_block(tile_, span_,
                   [this](const KeySegment& segment, KeySpan keys) { attend(load_block(segment, keys)); });
    for (int p = 0; p < panels_; ++p) finish(panel_[p]);
  }

 private:
  void make_panels() {
    for (int first = 0; first < tile_.rows; first += kPanelRows) {
      Panel& panel = panel_[panels_++];
      panel.rows = tile_.row + first;
      panel.count = tile_.rows - first < kPanelRows ? tile_.rows - first : kPanelRows;
      panel.any = span_of_any(panel.rows, panel.count);
      panel.every = span_of_all(panel.rows, panel.count);
      panel.q = scratch_.q + first * tile_.head_size;
      panel.o = scratch_.o + first * tile_.v_head_size;
      panel.m = scratch_.m + first;
      panel.l = scratch_.l + first;
      span_ = span_.joined(panel.any);
      pack_queries(panel);
      for (int64_t i = 0; i < tile_.v_head_size * kPanelRows; ++i) panel.o[i] = 0;
      for (int64_t i = 0; i < kPanelRows; ++i) panel.m[i] = kNever;
      for (int64_t i = 0; i < kPanelRows; ++i) panel.l[i] = 0;
    }
  }

  void pack_queries(const Panel& panel) {
    const Vec scale = broadcast(tile_.q_scale);
    for (int first = 0; first < kPanelRows; first += kLanes) {
      for (int64_t d = 0; d < tile_.head_size; d += kLanes) {
        const int64_t count = tile_.head_size - d < kLanes ? tile_.head_size - d : kLanes;
        Vec columns[kLanes];
        load_queries(panel.rows + first, panel.count - first, d, count, columns);
        transpose(columns);
        for (int64_t c = 0; c < count; ++c) store(panel.q + (d + c) * kPanelRows + first, columns[c] * scale);
      }
    }
  }

  void load_queries(const TileRow* rows, int used, int64_t d, int64_t count, Vec (&out)[kLanes]) {
    if (tile_.dtype == DType::kFloat && used >= kLanes && count == kLanes) {
      for (int r = 0; r < kLanes; ++r) out[r] = load(static_cast<const float*>(rows[r].q) + d);
      return;
    }
    for (int r = 0; r < kLanes; ++r) {
      out[r] = r < used ? load_values(tile_.dtype, rows[r].q, d, count) : broadcast(0.0f);
    }
  }

  Block load_block(const KeySegment& segment, KeySpan keys) {
    const int64_t skipped = keys.begin - segment.begin;
    const Rows k = load_rows(segment.k, segment.k_row_stride, skipped, keys.size(), tile_.head_size, scratch_.k);
    const Rows v = load_rows(segment.v, segment.v_row_stride, skipped, keys.size(), tile_.v_head_size, scratch_.v);
    return {keys, k, v};
  }

  // Rows as floats, where they are or copied. Rows that lie apart, as in (batch, row, head, column) tensors, are copied
  // too where enough panels read the copy: powers of two between rows crowd them into a few sets of the caches.
  Rows load_rows(const void* rows, int64_t stride, int64_t first, int64_t count, int64_t columns, float* copy) {
    constexpr int kPanelsToCopyFor = 4;
    if (tile_.dtype == DType::kFloat && (stride == columns || panels_ < kPanelsToCopyFor)) {
      return {static_cast<const float*>(rows) + first * stride, stride};
    }
    copy_rows(tile_.dtype, element(tile_.dtype, rows, first * stride), stride, count, columns, copy, columns);
    return {copy, columns};
  }

  void attend(const Block& block) {
    for (int p = 0; p < panels_; ++p) {
      const KeySpan keys = panel_[p].any.within(block.keys);
      if (!keys.empty()) attend(panel_[p], block, keys);
    }
  }

  void attend(const Panel& panel, const Block& block, KeySpan keys) {
    const PanelMask mask = load_mask(tile_, panel.rows, panel.count, keys, scratch_.bias);
    if (mask == PanelMask::kNothingAllowed) return;
    float* scores = scratch_.scores;
    const int64_t skipped = keys.begin - block.keys.begin;
    score_all(block.k.row(skipped), block.k.stride, keys.size(), panel.q, tile_.head_size, scores);

    const float scale = edit_scores(panel, keys, mask);
    fold(panel, keys.size(), scale);
    add_all_values(block.v.row(skipped), block.v.stride, keys.size(), tile_.v_head_size, scores, scratch_.factor,
                   panel.o);
  }

  // Returns the scale that the scores still lack: the softmax applies it for nothing, unless edits came first.
  float edit_scores(const Panel& panel, KeySpan keys, PanelMask mask) {
    float* scores = scratch_.scores;
    const bool masked = mask == PanelMask::kByRow || mask == PanelMask::kShared;
    const bool edited = tile_.softcap > 0 || tile_.has_alibi || tile_.has_bias || masked;
    if (edited && tile_.score_scale != 1) scale_scores(tile_.score_scale, keys.size() * kPanelRows, scores);
    if (tile_.softcap > 0) apply_softcap(tile_.softcap, keys.size() * kPanelRows, scores);
    if (tile_.has_alibi) add_alibi(panel.rows, panel.count, keys, scores);
    if (tile_.has_bias) add_row_bias(panel.rows, panel.count, keys.size(), scores);
    if (mask == PanelMask::kByRow) add_mask(scratch_.bias, keys.size(), scores);
    if (mask == PanelMask::kShared) add_shared_mask(scratch_.bias, keys.size(), scores);
    if (!panel.every.contains(keys)) apply_ranges(panel.rows, panel.count, keys, scores);
    return edited ? 1 : tile_.score_scale;
  }

  // A score is scaled and the maximum subtracted from it in one rounding, where the maximum had two. Up to this size
  // the difference is harmless; beyond, scores are rounded as their maximum was, or they could exceed it.
  static constexpr float kLargeScore = 16384;

  // Scores become probabilities relative to the new row maximum; the statistics follow.
  void fold(const Panel& panel, int64_t count, float scale) {
    const Vec never = broadcast(kNever), zero = broadcast(0.0f);
    for (int first = 0; first < kPanelRows; first += kLanes) {
      float* column = scratch_.scores + first;
      Vec scales = broadcast(scale);
      const Vec old_m = load(panel.m + first);
      Vec m = never;
      for (int64_t j = 0; j < count; ++j) m = max(load(column + j * kPanelRows), m);
      m = max(m * scales, old_m);
      store(panel.m + first, m);
      if (!all(less(max(m, zero - m), broadcast(kLargeScore)))) {
        for (int64_t j = 0; j < count; ++j) store(column + j * kPanelRows, load(column + j * kPanelRows) * scales);
        scales = broadcast(1.0f);
      }
      // A row that has seen no key: exp(-inf - 0) is 0, where exp(-inf - -inf) would be NaN.
      const Vec base = select(equal(m, never), zero, m);
      const Vec factor = exp_nonpositive(old_m - base);
      Vec sums = zero;  // of this block: see add_values
      for (int64_t j = 0; j < count; ++j) {
        const Vec p = exp_nonpositive(fma(load(column + j * kPanelRows), scales, zero - base));
        store(column + j * kPanelRows, p);
        sums = sums + p;
      }
      store(panel.l + first, fma(load(panel.l + first), factor, sums));
      store(scratch_.factor + first, factor);
    }
  }

  void finish(const Panel& panel) {
    if (tile_.partial.o != nullptr) return finish_partial(panel);
    alignas(64) float factor[kPanelRows] = {};
    void* outputs[kPanelRows];
    for (int r = 0; r < panel.count; ++r) {
      const RowEnd end = finish_row(panel.m[r], panel.l[r], panel.rows[r].sink);
      factor[r] = end.factor;
      outputs[r] = panel.rows[r].y;
      if (panel.rows[r].lse != nullptr) *panel.rows[r].lse = end.lse;
    }
    write_rows(panel, factor, tile_.dtype, outputs);
  }

  void finish_partial(const Panel& panel) {
    alignas(64) float factor[kPanelRows];
    void* outputs[kPanelRows];
    const int64_t first = panel.rows - tile_.row;
    for (int r = 0; r < kPanelRows; ++r) factor[r] = 1;
    for (int r = 0; r < panel.count; ++r) {
      tile_.partial.m[first + r] = panel.m[r];
      tile_.partial.l[first + r] = panel.l[r];
      outputs[r] = tile_.partial.o + (first + r) * tile_.v_head_size;
    }
    write_rows(panel, factor, DType::kFloat, outputs);
  }

  void write_rows(const Panel& panel, const float* factor, DType dtype, void* const* outputs) {
    for (int first = 0; first < panel.count; first += kLanes) {
      const Vec factors = load(factor + first), zero = broadcast(0.0f);
      const auto dead = equal(factors, zero);  // its sums may be NaN, where V is
      const int used = panel.count - first < kLanes ? panel.count - first : kLanes;
      for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
        const int64_t count = tile_.v_head_size - d < kLanes ? tile_.v_head_size - d : kLanes;
        Vec rows[kLanes];
        for (int64_t c = 0; c < kLanes; ++c) {
          rows[c] = c < count ? zero_where(dead, load(panel.o + (d + c) * kPanelRows + first) * factors) : zero;
        }
        transpose(rows);
        store_rows(rows, dtype, outputs + first, used, d, count);
      }
    }
  }

  static void store_rows(const Vec (&rows)[kLanes], DType dtype, void* const* outputs, int used, int64_t d,
                         int64_t count) {
    if (dtype == DType::kFloat && used == kLanes && count == kLanes) {
      for (int r = 0; r < kLanes; ++r) store(static_cast<float*>(outputs[r]) + d, rows[r]);
      return;
    }
    for (int r = 0; r < used; ++r) store_values(dtype, outputs[r], d, count, rows[r]);
  }

  const Tile& tile_;
  const Scratch scratch_;
  Panel panel_[kMaxTileRows / kPanelRows + 1];
  int panels_ = 0;
  KeySpan span_{0, 0};
};

}  // namespace

void run_tiled(const Tile& tile, float* scratch) { TiledKernel(tile, scratch).run(); }

int64_t tiled_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size) {
  return Scratch(nullptr, rows, head_size, v_head_size).floats;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

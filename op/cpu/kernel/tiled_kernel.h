// The tiled kernel: online softmax over blocks of keys, lanes are query rows.
//
// A tile's rows form panels of kPanelRows. For each block of keys, each panel computes S^T, edits it (softcap, ALiBi,
// mask, range), folds it into the row statistics and adds its product with V; Dao et al. 2022, algorithm 1. The
// products are a class of their own, which says what Q, K, V and the probabilities are multiplied as:
//
//   Products::Scratch(carver, rows, head_size, v_head_size)   its memory, for `rows` rows of whole panels
//   Products(tile, scratch)
//   pack_queries(rows, count, first)      `count` rows of a panel, the tile's rows from `first` on
//   load_block(segment, keys)             the next block: keys of `segment`
//   score(first, keys, ahead, scores)     S^T of the panel at row `first`, and its Maxima; `keys` are the block's,
//                                         from 0 on
//   add_values(first, keys, p, factor, ahead, o)
//                                         o = diag(factor) o + V^T P^T, for p laid out as scores were; p is spent
#pragma once

#include "op/cpu/kernel/edit.h"
#include "op/cpu/kernel/math.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/values.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// Cuts arrays out of memory; with null it only counts.
class Carver {
 public:
  explicit Carver(float* base) : next_(base) {}

  // Each array starts at a cache line, if the memory does.
  float* take(int64_t floats) {
    constexpr int64_t kLine = 16;
    const int64_t whole = (floats + kLine - 1) / kLine * kLine;
    float* taken = next_;
    if (next_ != nullptr) next_ += whole;
    taken_ += whole;
    return taken;
  }

  int64_t taken() const { return taken_; }

 private:
  float* next_;
  int64_t taken_ = 0;
};

template <typename Products>
struct TiledScratch {
  TiledScratch(float* base, int64_t rows, int64_t head_size, int64_t v_head_size)
      : carver(base),
        padded((rows + kPanelRows - 1) / kPanelRows * kPanelRows),
        products(carver, padded, head_size, v_head_size),
        o(carver.take(padded * v_head_size)),
        m(carver.take(padded)),
        l(carver.take(padded)),
        factor(carver.take(kPanelRows)),
        scores(carver.take(kBlockKeys * kPanelRows)),
        bias(carver.take(kBlockKeys)) {}

  int64_t floats() const { return carver.taken(); }

  Carver carver;
  int64_t padded;  // rows
  typename Products::Scratch products;
  float* o;       // (panel, v_head_size, kPanelRows)
  float* m;       // (panel, kPanelRows): row maxima
  float* l;       // (panel, kPanelRows): row sums of exp(score - maximum)
  float* factor;  // (kPanelRows): exp(old maximum - new maximum)
  float* scores;  // (key, kPanelRows), then probabilities
  float* bias;    // (key): a mask that all rows share
};

// Part of a tile that fills the lanes.
struct Panel {
  const TileRow* rows;
  int first;           // of the tile's rows
  int count;           // the lanes past it repeat the last row
  KeySpan any, every;  // keys that any row may see, and that all may
  float *o, *m, *l;
};

// The keys that all of the rows may see.
inline KeySpan span_of_all(const TileRow* rows, int count) {
  KeySpan span{rows[0].begin, rows[0].end};
  for (int r = 1; r < count; ++r) {
    if (rows[r].begin > span.begin) span.begin = rows[r].begin;
    if (rows[r].end < span.end) span.end = rows[r].end;
  }
  return span;
}

template <typename Products>
class TiledKernel {
 public:
  TiledKernel(const Tile& tile, float* scratch)
      : tile_(tile),
        scratch_(scratch, tile.rows, tile.head_size, tile.v_head_size),
        products_(tile, scratch_.products) {}

  void run() {
    make_panels();
    for_each_block(tile_, span_, block_keys(), [this](const KeySegment& segment, KeySpan keys) {
      products_.load_block(segment, keys);
      attend(segment, keys);
    });
    for (int p = 0; p < panels_; ++p) finish(panel_[p]);
  }

 private:
  void make_panels() {
    for (int first = 0; first < tile_.rows; first += kPanelRows) {
      Panel& panel = panel_[panels_++];
      panel.rows = tile_.row + first;
      panel.first = first;
      panel.count = tile_.rows - first < kPanelRows ? tile_.rows - first : kPanelRows;
      panel.any = span_of_any(panel.rows, panel.count);
      panel.every = span_of_all(panel.rows, panel.count);
      panel.o = scratch_.o + first * tile_.v_head_size;
      panel.m = scratch_.m + first;
      panel.l = scratch_.l + first;
      span_ = span_.joined(panel.any);
      products_.pack_queries(panel.rows, panel.count, first);
      for (int64_t i = 0; i < tile_.v_head_size * kPanelRows; ++i) panel.o[i] = 0;
      for (int64_t i = 0; i < kPanelRows; ++i) panel.m[i] = kNever;
      for (int64_t i = 0; i < kPanelRows; ++i) panel.l[i] = 0;
    }
  }

  // A single panel is done with a block so soon that it waits for memory: two short blocks, this one and the next, stay
  // in the second-level cache.
  int64_t block_keys() const { return panels_ == 1 && span_.size() > kBlockKeys ? kShortBlockKeys : kBlockKeys; }

  void attend(const KeySegment& segment, KeySpan block) {
    Ahead ahead = ahead_of(segment, block);
    for (int p = 0; p < panels_; ++p) {
      if (p + 1 < panels_) prefetch_mask(panel_[p + 1], block);
      const KeySpan keys = panel_[p].any.within(block);
      if (!keys.empty()) attend(panel_[p], keys, {keys.begin - block.begin, keys.end - block.begin}, ahead);
    }
  }

  // The next block's keys, in as many shares as this block's products have groups: no panel then waits for memory when
  // its turn comes, which rows that lie apart would be waited for one by one.
  Ahead ahead_of(const KeySegment& segment, KeySpan block) const {
    const KeySpan next =
        KeySpan{block.end, block.end + block_keys()}.within({segment.begin, segment.end}).within(span_);
    if (next.empty()) return {{tile_, segment, next}, 0};
    const int64_t groups = panels_ * (groups_of(block.size()) + groups_of(tile_.v_head_size));
    return {{tile_, segment, next}, static_cast<int>((NextKeys::lines(tile_, next.size()) + groups - 1) / groups)};
  }

  void prefetch_mask(const Panel& panel, KeySpan block) const {
    if (tile_.mask_dtype == DType::kUndefined || tile_.mask_is_shared) return;
    const KeySpan keys = panel.any.within(block);
    for (int r = 0; r < panel.count; ++r) {
      prefetch(element(tile_.mask_dtype, panel.rows[r].mask, keys.begin), keys.size() * bytes_of(tile_.mask_dtype));
    }
  }

  // `keys` of the problem lie at `in_block` of the block.
  void attend(const Panel& panel, KeySpan keys, KeySpan in_block, Ahead& ahead) {
    const PanelMask mask = look_at_mask(tile_, panel.rows, panel.count, keys, scratch_.bias);
    if (mask == PanelMask::kNothingAllowed) return;
    const Maxima most = products_.score(panel.first, in_block, ahead, scratch_.scores);
    fold(panel, keys.size(), edit_scores(panel, keys, mask, {most, tile_.score_scale}));
    products_.add_values(panel.first, in_block, scratch_.scores, scratch_.factor, ahead, panel.o);
  }

  // What is known of a panel's scores, as they lie there.
  struct Scores {
    Maxima most;
    float scale;  // that they still lack: the softmax applies it for nothing, unless an edit came first
  };

  Scores edit_scores(const Panel& panel, KeySpan keys, PanelMask mask, Scores known) {
    float* scores = scratch_.scores;
    if (tile_.softcap > 0 || tile_.has_alibi || tile_.has_bias) {
      if (known.scale != 1) scale_scores(known.scale, keys.size() * kPanelRows, scores);
      if (tile_.softcap > 0) apply_softcap(tile_.softcap, keys.size() * kPanelRows, scores);
      if (tile_.has_alibi) add_alibi(panel.rows, panel.count, keys, scores);
      if (tile_.has_bias) add_row_bias(panel.rows, panel.count, keys.size(), scores);
      known = {maxima_of(scores, keys.size()), 1};
    }
    if (mask == PanelMask::kByRow) {
      known = {add_row_masks(tile_, panel.rows, panel.count, keys, known.scale, scores), 1};
    } else if (mask == PanelMask::kShared) {
      known = {add_shared_mask(scratch_.bias, keys.size(), known.scale, scores), 1};
    }
    if (!panel.every.contains(keys)) known.most = apply_ranges(panel.rows, panel.count, keys, scores);
    return known;
  }

  // A score is scaled and the maximum subtracted from it in one rounding, where the maximum had two. Up to this size
  // the difference is harmless; beyond, scores are rounded as their maximum was, or they could exceed it, and only
  // differences are multiplied by log2 e, which could overflow.
  static constexpr float kLargeScore = 16384;

  // Scores become probabilities relative to the new row maximum; the statistics follow. Exponents are of 2.
  void fold(const Panel& panel, int64_t count, const Scores& known) {
    const Vec never = broadcast(kNever), zero = broadcast(0.0f), log2_e = broadcast(kLog2E);
    for (int v = 0; v < kPanelVectors; ++v) {
      float* column = scratch_.scores + v * kLanes;
      const Vec old_m = load(panel.m + v * kLanes);
      const Vec m = max(known.most.of[v] * broadcast(known.scale), old_m);
      // A row that has seen no key: 2^(-inf - 0) is 0, where 2^(-inf - -inf) would be NaN.
      const Vec base = select(equal(m, never), zero, m);
      Vec scales = broadcast(known.scale * kLog2E);
      Vec minus_base = zero - base * log2_e;
      Vec shrinking = old_m * log2_e + minus_base;
      if (!all(less(max(m, zero - m), broadcast(kLargeScore)))) {
        for (int64_t j = 0; j < count; ++j) {
          float* score = column + j * kPanelRows;
          store(score, (load(score) * broadcast(known.scale) - base) * log2_e);
        }
        scales = broadcast(1.0f);
        minus_base = zero;
        shrinking = (old_m - base) * log2_e;
      }
      Vec sums = zero;  // of this block: see add_values
      for (int64_t j = 0; j < count; ++j) {
        float* score = column + j * kPanelRows;
        const Vec p = exp2_nonpositive(fma(load(score), scales, minus_base));
        store(score, p);
        sums = sums + p;
      }
      const Vec factor = exp2_nonpositive(shrinking);
      float* l = panel.l + v * kLanes;
      store(l, fma(load(l), factor, sums));
      store(panel.m + v * kLanes, m);
      store(scratch_.factor + v * kLanes, factor);
    }
  }

  void finish(const Panel& panel) {
    if (tile_.partial.o != nullptr) return finish_partial(panel);
    alignas(64) float factor[kPanelRows] = {};
    void* outputs[kPanelRows];
    for (int r = 0; r < panel.count; ++r) {
      const TileRow& row = panel.rows[r];
      const RowEnd end = finish_row(panel.m[r], panel.l[r], row.sink, row.lse != nullptr);
      factor[r] = end.factor;
      outputs[r] = row.y;
      if (row.lse != nullptr) *row.lse = end.lse;
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
        const float* o = panel.o + d * kPanelRows + first;
        const auto column = [&](int64_t c) { return zero_where(dead, load(o + c * kPanelRows) * factors); };
        const int64_t columns = tile_.v_head_size - d;
        if (used == kLanes && columns >= kLanes) {
          write_whole(column, dtype, outputs + first, d);
        } else {
          write_part(column, dtype, outputs + first, used, d, columns);
        }
      }
    }
  }

  // Of kLanes rows the columns from d on, all kLanes of which exist: everything stays in registers.
  template <typename Column>
  static void write_whole(const Column& column, DType dtype, void* const* outputs, int64_t d) {
    Vec rows[kLanes];
    for (int c = 0; c < kLanes; ++c) rows[c] = column(c);
    transpose(rows);
    for (int r = 0; r < kLanes; ++r) store_all(dtype, element(dtype, outputs[r], d), rows[r]);
  }

  template <typename Column>
  static void write_part(const Column& column, DType dtype, void* const* outputs, int used, int64_t d,
                         int64_t columns) {
    Vec rows[kLanes];
    for (int c = 0; c < kLanes; ++c) rows[c] = c < columns ? column(c) : broadcast(0.0f);
    transpose(rows);
    for (int r = 0; r < used; ++r) store_values(dtype, outputs[r], d, columns, rows[r]);
  }

  const Tile& tile_;
  const TiledScratch<Products> scratch_;
  Products products_;
  Panel panel_[kMaxTileRows / kPanelRows + 1];
  int panels_ = 0;
  KeySpan span_{0, 0};
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// What happens to a panel's scores between Q K^T and the softmax, a pass for each thing that a tile asks for.
//
// Scores are (key, kPanelRows). Order as in ONNX Attention: softcap, then bias and mask.
#pragma once

#include "op/cpu/kernel/block.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/scores.h"
#include "op/cpu/kernel/values.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// One value for each lane; lanes past the last row repeat it.
template <typename Get>
inline void fill_lanes(const TileRow* rows, int count, float (&lanes)[kPanelRows], const Get& get) {
  for (int r = 0; r < kPanelRows; ++r) lanes[r] = get(rows[r < count ? r : count - 1]);
}

inline void add_alibi(const TileRow* rows, int count, KeySpan keys, float* scores) {
  alignas(64) float slopes[kPanelRows], positions[kPanelRows];
  fill_lanes(rows, count, slopes, [](const TileRow& row) { return row.slope; });
  fill_lanes(rows, count, positions, [&](const TileRow& row) { return static_cast<float>(row.position - keys.begin); });
  for (int first = 0; first < kPanelRows; first += kLanes) {
    const Vec slope = load(slopes + first), position = load(positions + first);
    for (int64_t j = 0; j < keys.size(); ++j) {
      float* score = scores + j * kPanelRows + first;
      const Vec ahead = broadcast(static_cast<float>(j)) - position;
      const Vec distance = max(ahead, broadcast(0.0f) - ahead);
      store(score, fnma(slope, distance, load(score)));
    }
  }
}

inline void add_row_bias(const TileRow* rows, int count, int64_t keys, float* scores) {
  alignas(64) float biases[kPanelRows];
  fill_lanes(rows, count, biases, [](const TileRow& row) { return row.bias; });
  for (int64_t i = 0; i < keys * kPanelRows; i += kLanes) {
    store(scores + i, load(scores + i) + load(biases + i % kPanelRows));
  }
}

inline Maxima add_shared_mask(const float* bias, int64_t count, float scale, float* scores) {
  Maxima most = no_maxima();
  for (int64_t j = 0; j < count; ++j) {
    const Vec value = broadcast(bias[j]);
    for (int v = 0; v < kPanelVectors; ++v) {
      float* score = scores + j * kPanelRows + v * kLanes;
      const Vec edited = masked(load(score), value, scale);
      store(score, edited);
      most.of[v] = max(edited, most.of[v]);
    }
  }
  return most;
}

// Keys outside of a row's own range are forbidden.
inline Maxima apply_ranges(const TileRow* rows, int count, KeySpan keys, float* scores) {
  const auto relative = [&](int64_t key) {
    const int64_t clamped = key < keys.begin ? keys.begin : key > keys.end ? keys.end : key;
    return static_cast<float>(clamped - keys.begin);
  };
  alignas(64) float begins[kPanelRows], ends[kPanelRows];
  fill_lanes(rows, count, begins, [&](const TileRow& row) { return relative(row.begin); });
  fill_lanes(rows, count, ends, [&](const TileRow& row) { return relative(row.end); });
  const Vec never = broadcast(kNever);
  Maxima most = no_maxima();
  for (int v = 0; v < kPanelVectors; ++v) {
    const Vec begin = load(begins + v * kLanes), end = load(ends + v * kLanes);
    Vec m = most.of[v];
    for (int64_t j = 0; j < keys.size(); ++j) {
      float* score = scores + j * kPanelRows + v * kLanes;
      const Vec key = broadcast(static_cast<float>(j));
      const Vec edited = select(less(key, begin), never, select(less(key, end), load(score), never));
      store(score, edited);
      m = max(edited, m);
    }
    most.of[v] = m;
  }
  return most;
}

// What a panel's mask says about a block.
enum class PanelMask {
  kNone,            // there is no mask, or it is 0 everywhere here
  kNothingAllowed,  // the block need not be computed
  kByRow,           // each row has values of its own
  kShared,          // the same values for all rows
};

// Watches the values of a mask go by.
struct MaskSummary {
  Mask zero = equal(broadcast(0.0f), broadcast(0.0f));  // lanes that were always 0
  Mask never = zero;                                    // lanes that were always -infinity

  void see(Vec bias) {
    zero = both(zero, equal(bias, broadcast(0.0f)));
    never = both(never, equal(bias, broadcast(kNever)));
  }

  PanelMask or_else(PanelMask kind) const {
    return all(never) ? PanelMask::kNothingAllowed : all(zero) ? PanelMask::kNone : kind;
  }
};

inline PanelMask load_shared_mask(const Tile& tile, const TileRow& row, KeySpan keys, float* bias) {
  MaskSummary summary;
  for (int64_t j = 0; j < keys.size(); j += kLanes) {
    const int64_t left = keys.size() - j;
    const Vec values = load_values(tile.mask_dtype, row.mask, keys.begin + j, left);
    summary.see(values);
    store(bias + j, values);
  }
  return summary.or_else(PanelMask::kShared);
}

// The mask values of a panel's rows, each with a row of its own.
template <DType kType>
class RowMasks {
 public:
  RowMasks(const TileRow* rows, int count, KeySpan keys) : count_(count), keys_(keys) {
    for (int r = 0; r < kPanelRows; ++r) masks_[r] = element(kType, rows[r < count ? r : count - 1].mask, keys.begin);
  }

  // Most masks are mixed, and their first row says so.
  PanelMask summary() const {
    PanelMask kind = PanelMask::kByRow;
    MaskSummary summary;
    for (int r = 0; r < count_; ++r) {
      for (int64_t j = 0; j < keys_.size(); j += kLanes) {
        // The last values again rather than too few: those that are not there would count as 0.
        const int64_t last = keys_.size() < kLanes ? 0 : keys_.size() - kLanes;
        const int64_t at = j < last ? j : last;
        summary.see(load_values(kType, masks_[r], at, keys_.size() - at));
      }
      kind = summary.or_else(PanelMask::kByRow);
      if (kind == PanelMask::kByRow) break;
    }
    return kind;
  }

  // scores = scale * scores + mask, transposed in registers on its way. Returns the maxima.
  Maxima add_to(float* scores, float scale) const {
    Maxima most = no_maxima();
    for (int v = 0; v < kPanelVectors; ++v) {
      int64_t j = 0;
      for (; j + kLanes <= keys_.size(); j += kLanes) {
        add_part(v, j, kLanes, scores, scale, most,
                 [&](const char* mask) { return load_all(kType, element(kType, mask, j)); });
      }
      if (j < keys_.size()) {
        const int64_t left = keys_.size() - j;
        add_part(v, j, left, scores, scale, most, [&](const char* mask) { return load_values(kType, mask, j, left); });
      }
    }
    return most;
  }

 private:
  // Of the rows of vector v, `used` keys from j on.
  template <typename Load>
  __attribute__((always_inline)) void add_part(int v, int64_t j, int64_t used, float* scores, float scale, Maxima& most,
                                               const Load& load_mask) const {
    Vec values[kLanes];
    for (int r = 0; r < kLanes; ++r) values[r] = load_mask(masks_[v * kLanes + r]);
    transpose(values);
    Vec m = most.of[v];
    float* column = scores + j * kPanelRows + v * kLanes;
    for (int64_t c = 0; c < used; ++c) {
      const Vec edited = masked(load(column + c * kPanelRows), values[c], scale);
      store(column + c * kPanelRows, edited);
      m = max(edited, m);
    }
    most.of[v] = m;
  }

  const char* masks_[kPanelRows];  // of each lane, its value for the first of the keys
  int count_;
  KeySpan keys_;
};

// Calls body(RowMasks) for the type that the tile's mask has.
template <typename Body>
inline auto with_row_masks(const Tile& tile, const TileRow* rows, int count, KeySpan keys, const Body& body) {
  switch (tile.mask_dtype) {
    case DType::kBool:
      return body(RowMasks<DType::kBool>(rows, count, keys));
    case DType::kFloat16:
      return body(RowMasks<DType::kFloat16>(rows, count, keys));
    case DType::kBFloat16:
      return body(RowMasks<DType::kBFloat16>(rows, count, keys));
    default:
      return body(RowMasks<DType::kFloat>(rows, count, keys));
  }
}

// What the mask comes to; `bias` takes the values that all rows share.
inline PanelMask look_at_mask(const Tile& tile, const TileRow* rows, int count, KeySpan keys, float* bias) {
  if (tile.mask_dtype == DType::kUndefined) return PanelMask::kNone;
  if (tile.mask_is_shared) return load_shared_mask(tile, rows[0], keys, bias);
  return with_row_masks(tile, rows, count, keys, [](const auto& masks) { return masks.summary(); });
}

inline Maxima add_row_masks(const Tile& tile, const TileRow* rows, int count, KeySpan keys, float scale,
                            float* scores) {
  return with_row_masks(tile, rows, count, keys, [&](const auto& masks) { return masks.add_to(scores, scale); });
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

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

inline void add_mask(const float* bias, int64_t count, float scale, float* scores) {
  for (int64_t i = 0; i < count * kPanelRows; i += kLanes) {
    store(scores + i, masked(load(scores + i), load(bias + i), scale));
  }
}

inline void add_shared_mask(const float* bias, int64_t count, float scale, float* scores) {
  for (int64_t j = 0; j < count; ++j) {
    const Vec value = broadcast(bias[j]);
    for (int v = 0; v < kPanelVectors; ++v) {
      float* score = scores + j * kPanelRows + v * kLanes;
      store(score, masked(load(score), value, scale));
    }
  }
}

// Keys outside of a row's own range are forbidden.
inline void apply_ranges(const TileRow* rows, int count, KeySpan keys, float* scores) {
  const auto relative = [&](int64_t key) {
    const int64_t clamped = key < keys.begin ? keys.begin : key > keys.end ? keys.end : key;
    return static_cast<float>(clamped - keys.begin);
  };
  alignas(64) float begins[kPanelRows], ends[kPanelRows];
  fill_lanes(rows, count, begins, [&](const TileRow& row) { return relative(row.begin); });
  fill_lanes(rows, count, ends, [&](const TileRow& row) { return relative(row.end); });
  const Vec never = broadcast(kNever);
  for (int first = 0; first < kPanelRows; first += kLanes) {
    const Vec begin = load(begins + first), end = load(ends + first);
    for (int64_t j = 0; j < keys.size(); ++j) {
      float* score = scores + j * kPanelRows + first;
      const Vec key = broadcast(static_cast<float>(j));
      store(score, select(less(key, begin), never, select(less(key, end), load(score), never)));
    }
  }
}

// What a panel's mask says about a block.
enum class PanelMask {
  kNone,            // there is no mask, or it is 0 everywhere here
  kNothingAllowed,  // the block need not be computed
  kByRow,           // bias is (key, kPanelRows)
  kShared,          // bias is (key): the same for all rows
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

// The panel's mask values for keys [j, j + left), at most kLanes of them, as rows of `bias`.
template <DType kType>
inline void load_mask_part(const void* const* masks, int64_t key, int64_t left, float* bias, MaskSummary& summary) {
  const int64_t used = left < kLanes ? left : kLanes;
  for (int first = 0; first < kPanelRows; first += kLanes) {
    Vec values[kLanes];
    if (used == kLanes) {
      for (int r = 0; r < kLanes; ++r) values[r] = load_all(kType, element(kType, masks[first + r], key));
    } else {
      for (int r = 0; r < kLanes; ++r) values[r] = load_values(kType, masks[first + r], key, used);
    }
    transpose(values);
    for (int64_t c = 0; c < used; ++c) {
      summary.see(values[c]);
      store(bias + c * kPanelRows + first, values[c]);
    }
  }
}

template <DType kType>
inline PanelMask load_mask_of(const void* const* masks, KeySpan keys, float* bias) {
  MaskSummary summary;
  for (int64_t j = 0; j < keys.size(); j += kLanes) {
    load_mask_part<kType>(masks, keys.begin + j, keys.size() - j, bias + j * kPanelRows, summary);
  }
  return summary.or_else(PanelMask::kByRow);
}

inline PanelMask load_mask(const Tile& tile, const TileRow* rows, int count, KeySpan keys, float* bias) {
  if (tile.mask_dtype == DType::kUndefined) return PanelMask::kNone;
  if (tile.mask_is_shared) return load_shared_mask(tile, rows[0], keys, bias);
  const void* masks[kPanelRows];
  for (int r = 0; r < kPanelRows; ++r) masks[r] = rows[r < count ? r : count - 1].mask;
  switch (tile.mask_dtype) {
    case DType::kBool:
      return load_mask_of<DType::kBool>(masks, keys, bias);
    case DType::kFloat16:
      return load_mask_of<DType::kFloat16>(masks, keys, bias);
    case DType::kBFloat16:
      return load_mask_of<DType::kBFloat16>(masks, keys, bias);
    default:
      return load_mask_of<DType::kFloat>(masks, keys, bias);
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

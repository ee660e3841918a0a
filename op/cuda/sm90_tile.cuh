// The sm_90 kernel's tile, what its warps share, and its arguments.
#pragma once

#include <cuda.h>

#include "op/cuda/key_blocks.cuh"
#include "op/cuda/scores.cuh"
#include "op/cuda/tile_order.h"

namespace flashonnx::cuda {

template <typename Element_, int kHeadSize_, int kVHeadSize_, int kQTile_, int kKeyTile_, Sm90Use kUse>
struct Sm90Tile {
  using Element = Element_;
  static constexpr int kHeadSize = kHeadSize_;    // head_size, or the next size there is a kernel for
  static constexpr int kVHeadSize = kVHeadSize_;  // likewise v_head_size
  static constexpr int kQTile = kQTile_;
  static constexpr int kKeyTile = kKeyTile_;
  static constexpr bool kModified = modifies_scores(kUse);  // scores need more than scale and an interval
  // Then without the code for all else that scores can need, which lies in between and has to be jumped over.
  static constexpr bool kFloatMaskOnly = kUse == Sm90Use::kFloatMask;
  static constexpr bool kBoolMaskOnly = kUse == Sm90Use::kBoolMask;

  static constexpr int kConsumers = kQTile / 64;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kStages = kHeadSize == 64 && !kModified ? 4 : 2;  // of K and of V
  static constexpr int kWorkSlots = 3;  // tiles that are handed out: one that ends, one that runs, one ahead
  static constexpr int kPanel = 64;     // columns of a 128-byte row
  static constexpr int kPanels = (kHeadSize + kPanel - 1) / kPanel;
  static constexpr int kVPanels = (kVHeadSize + kPanel - 1) / kPanel;
  static constexpr int kGroupRows = 64;  // of one consumer
  static constexpr int kQPanelBytes = kQTile * 128;
  static constexpr int kGroupPanelBytes = kGroupRows * 128;
  static constexpr int kKeyPanelBytes = kKeyTile * 128;
  // attn_mask travels with K: a byte or two a score, in panels of 128-byte rows.
  static constexpr int kMaskPanelBytes = kQTile * 128;
  static constexpr int kMaskPanels = kModified ? (kKeyTile * 2 + 127) / 128 : 0;
  static constexpr int kQBytes = kPanels * kQPanelBytes;
  static constexpr int kRingBytes = kStages * ((kPanels + kVPanels) * kKeyPanelBytes + kMaskPanels * kMaskPanelBytes);
  // Two where there is room: the next tile's Q then travels while this one's is in use.
  static constexpr int kQStages = 2 * kQBytes + kRingBytes <= 224 * 1024 ? 2 : 1;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
};

// A tile as it is handed out; block -1: there are no more.
template <typename T>
struct Sm90Work {
  Tile tile;
  KeyBlocks blocks;
  int group_end[T::kConsumers];  // of the blocks that each consumer's rows need; begin of all of them: none
  KeyLimits limits;
};

template <typename T, bool kModified = T::kModified>
struct Sm90MaskBuffers {
  alignas(1024) char mask[T::kStages][T::kMaskPanels * T::kMaskPanelBytes];
};
template <typename T>
struct Sm90MaskBuffers<T, false> {};

template <typename T>
struct Sm90Shared : Sm90MaskBuffers<T> {
  alignas(1024) char q[T::kQStages][T::kQBytes];
  alignas(1024) char k[T::kStages][T::kPanels * T::kKeyPanelBytes];
  alignas(1024) char v[T::kStages][T::kVPanels * T::kKeyPanelBytes];
  uint64_t q_full[T::kQStages][T::kConsumers], q_empty[T::kQStages][T::kConsumers];  // of each consumer's 64 rows
  uint64_t k_full[T::kStages], k_empty[T::kStages];
  uint64_t v_full[T::kStages], v_empty[T::kStages];
  uint64_t work_full[T::kWorkSlots], work_empty[T::kWorkSlots];
  Sm90Work<T> work[T::kWorkSlots];
};

// Along a dimension that it is broadcast over, attn_mask has one element.
struct Sm90Mask {
  CUtensorMap map;
  bool by_rows, by_heads, by_batches;
  int panels;         // of a block; 0: there is no mask
  int panel_columns;  // of 128 bytes
};

struct Sm90Arguments {
  CUtensorMap q, k, v;
  Sm90Mask mask;
  ScoreRules rules;
  Problem problem;
  TileOrder order;
};

}  // namespace flashonnx::cuda

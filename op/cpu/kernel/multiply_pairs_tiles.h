// Products of pairs in tile registers. Interface: multiply_pairs.h.
//
// Two by two tiles of C stay in registers, so that each tile of A and B that is read serves two products.
#pragma once

#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/tile_unit.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

constexpr int64_t kRowStep = kTileRows;
constexpr int64_t kDepthStep = kTileDepth;

class PairMultiplier {
 public:
  void multiply(const uint16_t* a, int64_t a_stride, int64_t rows, const uint32_t* b, int64_t depth, float* c) {
    int64_t r = 0;
    for (; r + kTileRows < rows; r += 2 * kTileRows) {
      multiply_tiles<2>(a + r * a_stride, a_stride, b, depth, c + r * kPanelRows);
    }
    if (r < rows) multiply_tiles<1>(a + r * a_stride, a_stride, b, depth, c + r * kPanelRows);
  }

 private:
  // C is kHigh tiles high, 1 or 2, and two wide.
  template <int kHigh>
  void multiply_tiles(const uint16_t* a, int64_t a_stride, const uint32_t* b, int64_t depth, float* c) {
    static_assert(kPanelVectors == 2, "a panel is two tiles wide");
    constexpr int64_t kRowBytes = kPanelRows * static_cast<int64_t>(sizeof(float));
    const int64_t a_bytes = a_stride * static_cast<int64_t>(sizeof(uint16_t));
    unit_.clear<0>();
    unit_.clear<1>();
    if (kHigh == 2) unit_.clear<2>();
    if (kHigh == 2) unit_.clear<3>();
    for (int64_t k = 0; k < depth; k += kTileDepth) {
      const uint32_t* b_rows = b + k / 2 * kPanelRows;
      unit_.load<6>(b_rows, kRowBytes);
      unit_.load<7>(b_rows + kLanes, kRowBytes);
      unit_.load<4>(a + k, a_bytes);
      unit_.add_product<0, 4, 6>();
      unit_.add_product<1, 4, 7>();
      if (kHigh == 1) continue;
      unit_.load<5>(a + kTileRows * a_stride + k, a_bytes);
      unit_.add_product<2, 5, 6>();
      unit_.add_product<3, 5, 7>();
    }
    unit_.store<0>(c, kRowBytes);
    unit_.store<1>(c + kLanes, kRowBytes);
    if (kHigh == 1) return;
    unit_.store<2>(c + kTileRows * kPanelRows, kRowBytes);
    unit_.store<3>(c + kTileRows * kPanelRows + kLanes, kRowBytes);
  }

  TileUnit unit_;
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

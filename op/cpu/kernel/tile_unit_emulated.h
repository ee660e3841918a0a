// The tile registers of Intel AMX in plain C++, bit for bit, so that their kernel is tested on any CPU. Interface:
// tile_unit.h.
//
// Unlike the rest of the kernels' arithmetic, AMX takes subnormal numbers as 0 and writes none.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

class TileUnit {
 public:
  template <int kTile>
  void clear() {
    std::memset(tile_[kTile], 0, sizeof tile_[kTile]);
  }

  template <int kTile>
  void load(const void* rows, int64_t stride) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(tile_[kTile][r], static_cast<const char*>(rows) + r * stride, row_bytes(kTile));
    }
  }

  template <int kTile>
  void store(float* rows, int64_t stride) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      std::memcpy(reinterpret_cast<char*>(rows) + r * stride, tile_[kTile][r], row_bytes(kTile));
    }
  }

  template <int kSums, int kA, int kB>
  void add_product() {
    for (int m = 0; m < kTileRows; ++m) {
      for (int n = 0; n < kLanes; ++n) {
        float low = 0, high = 0;
        for (int k = 0; k < kTilePairs; ++k) {
          const uint32_t a = tile_[kA][m][k], b = tile_[kB][k][n];
          low = flushed(std::fma(low_value(a), low_value(b), low));
          high = flushed(std::fma(high_value(a), high_value(b), high));
        }
        const float sum = flushed(number(tile_[kSums][m][n])) + flushed(low + high);
        tile_[kSums][m][n] = bits(flushed(sum));
      }
    }
  }

 private:
  static size_t row_bytes(int tile) {
    const bool is_a = tile == 4 || tile == 5;
    return sizeof(uint32_t) * static_cast<size_t>(is_a ? kTilePairs : kLanes);
  }

  static float number(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static uint32_t bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }
  // A subnormal number becomes a zero of its sign.
  static float flushed(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
  }
  // Of a pair of bfloat16, which are the upper halves of floats.
  static float low_value(uint32_t pair) { return flushed(number(pair << 16)); }
  static float high_value(uint32_t pair) { return flushed(number(pair & 0xffff0000u)); }

  uint32_t tile_[8][kTileRows][16];
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Pairs of bfloat16 on any CPU. Interface: multiply_pairs.h.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

inline void store_pairs(uint32_t* p, Vec even, Vec odd) {
  uint16_t low[kLanes], high[kLanes];
  store_bfloat16(low, even);
  store_bfloat16(high, odd);
  for (int i = 0; i < kLanes; ++i) p[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
}

inline Vec load_pairs(const uint16_t* even, const uint16_t* odd) {
  uint32_t pairs[kLanes];
  for (int i = 0; i < kLanes; ++i) pairs[i] = even[i] | static_cast<uint32_t>(odd[i]) << 16;
  Vec bits;
  std::memcpy(&bits, pairs, sizeof bits);
  return bits;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

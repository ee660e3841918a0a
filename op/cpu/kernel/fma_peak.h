#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// As many vectors as hide the latency of two multiply-adders, 4 or 5 cycles each, and fit 16 registers.
constexpr int kFmaVectors = 12;

void run_fma_peak(int64_t rounds, float* sums);

}  // namespace flashonnx::cpu::FLASHONNX_ISA

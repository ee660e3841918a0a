// The tiled kernel of one instruction set.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

void run_tiled(const Tile& tile, float* scratch);

int64_t tiled_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size);

}  // namespace flashonnx::cpu::FLASHONNX_ISA

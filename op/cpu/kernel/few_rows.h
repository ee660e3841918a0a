// The kernel for few query rows, of one instruction set.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

void run_few_rows(const Tile& tile, float* scratch);

int64_t few_rows_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size);

}  // namespace flashonnx::cpu::FLASHONNX_ISA

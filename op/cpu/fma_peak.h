// How fast the multiply-adds of this CPU are at best: what the kernels' speed is measured against.
#pragma once

#include <cstdint>

#include "op/core/parallel.h"

namespace flashonnx::cpu {

// Does at least `flops` floating-point operations, two a multiply-add, on floats that stay in registers, with the
// vectors that the kernels of float would use here if none were forced. Returns how many it did.
int64_t multiply_add(int64_t flops, const Parallel& parallel);

}  // namespace flashonnx::cpu

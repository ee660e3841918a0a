// Where the common code finds the kernels of an instruction set.
#pragma once

#include "op/cpu/isa.h"
#include "op/cpu/kernel/tile.h"

namespace flashonnx::cpu {

// Of a set that is_compiled (isa.h); of any other, the generic ones.
const KernelTable& kernel_table(Isa isa);

}  // namespace flashonnx::cpu

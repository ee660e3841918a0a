// The table of this instruction set's kernels.
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/tiled.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

const KernelTable kKernels = {run_tiled, run_tiled, scratch_floats, kPanelRows};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// The table of this instruction set's kernels.
#include "op/cpu/kernel/few_rows.h"
#include "op/cpu/kernel/fma_peak.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/tiled.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

const KernelTable kKernels = {{run_tiled, tiled_scratch_floats},
                              {run_few_rows, few_rows_scratch_floats},
                              kPanelRows,
                              {run_fma_peak, kFmaVectors * kLanes}};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

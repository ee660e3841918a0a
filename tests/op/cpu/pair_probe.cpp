#include "tests/op/cpu/pair_probe.h"

#include "op/cpu/kernel/multiply_pairs.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

const PairProbe kPairProbe = {
    kLanes,
    kPanelRows,
    kRowStep,
    kDepthStep,
    [](const uint16_t* a, int64_t a_stride, int64_t rows, const uint32_t* b, int64_t depth, float* c) {
      PairMultiplier().multiply(a, a_stride, rows, b, depth, c);
    },
    [](const float* even, const float* odd, uint32_t* out) { store_pairs(out, load(even), load(odd)); },
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

#include "tests/op/cpu/simd_probe.h"

#include "op/cpu/kernel/math.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

const SimdProbe kProbe = {
    kLanes,
    [](const float* in, float* out) { store(out, exp2_nonpositive(load(in))); },
    [](const float* in, float* out) { store(out, tanh(load(in))); },
    [](float* matrix) {
      Vec rows[kLanes];
      for (int i = 0; i < kLanes; ++i) rows[i] = load(matrix + i * kLanes);
      transpose(rows);
      for (int i = 0; i < kLanes; ++i) store(matrix + i * kLanes, rows[i]);
    },
    [](const float* matrix, float* out) {
      Vec rows[kLanes];
      for (int i = 0; i < kLanes; ++i) rows[i] = load(matrix + i * kLanes);
      store(out, sum_each(rows));
    },
    [](const float* in, float* out) { store(out, max_of_groups<2>(load(in))); },
    [](const float* in, float* out) { store(out, max_of_groups<kLanes>(load(in))); },
    [](const uint16_t* in, float* out) { store(out, load_half(in)); },
    [](const uint16_t* in, float* out) { store(out, load_bfloat16(in)); },
    [](const uint16_t* in, float* out) { store(out, load_lower_bfloat16(in)); },
    [](const uint16_t* in, float* out) { store(out, load_upper_bfloat16(in)); },
    [](const float* in, uint16_t* out) { store_half(out, load(in)); },
    [](const float* in, uint16_t* out) { store_bfloat16(out, load(in)); },
    [](const uint8_t* in, float* out) { store(out, load_mask_bytes(in, -1.0f)); },
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

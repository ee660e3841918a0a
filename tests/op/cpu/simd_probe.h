// The vector functions of each instruction set, behind plain functions: the test itself is compiled for any CPU.
#pragma once

#include <cstdint>

namespace flashonnx::cpu {

struct SimdProbe {
  int lanes;
  void (*exp2_nonpositive)(const float* in, float* out);  // `lanes` values each
  void (*tanh)(const float* in, float* out);
  void (*transpose)(float* matrix);                   // lanes x lanes
  void (*sum_each)(const float* matrix, float* out);  // (lanes, lanes) to (lanes)
  void (*max_of_pairs)(const float* in, float* out);
  void (*max_of_all)(const float* in, float* out);
  void (*load_half)(const uint16_t* in, float* out);
  void (*load_bfloat16)(const uint16_t* in, float* out);
  void (*load_lower_bfloat16)(const uint16_t* in, float* out);  // 2 * lanes values to lanes
  void (*load_upper_bfloat16)(const uint16_t* in, float* out);
  void (*store_half)(const float* in, uint16_t* out);
  void (*store_bfloat16)(const float* in, uint16_t* out);
  void (*load_mask_bytes)(const uint8_t* in, float* out);  // -1 where false
};

namespace generic {
extern const SimdProbe kProbe;
}
namespace avx2 {
extern const SimdProbe kProbe;
}
namespace avx512 {
extern const SimdProbe kProbe;
}

}  // namespace flashonnx::cpu

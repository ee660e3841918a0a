// The bfloat16 products of each instruction set that has them, behind plain functions: the test itself is compiled for
// any CPU.
#pragma once

#include <cstdint>

namespace flashonnx::cpu {

struct PairProbe {
  int lanes, panel_rows, row_step, depth_step;
  // c = a b: a (rows, a_stride), b (depth / 2, panel_rows) pairs, c (rows, panel_rows).
  void (*multiply)(const uint16_t* a, int64_t a_stride, int64_t rows, const uint32_t* b, int64_t depth, float* c);
  void (*store_pairs)(const float* even, const float* odd, uint32_t* out);  // `lanes` values each
};

namespace amx_emulated {
extern const PairProbe kPairProbe;
}
namespace avx512_bf16 {
extern const PairProbe kPairProbe;
}
namespace amx {
extern const PairProbe kPairProbe;
}

}  // namespace flashonnx::cpu

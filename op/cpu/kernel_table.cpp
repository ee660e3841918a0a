#include "op/cpu/kernel_table.h"

namespace flashonnx::cpu {

const KernelTable& kernel_table(Isa isa) {
  switch (isa) {
#ifdef FLASHONNX_HAS_AMX
    case Isa::kAmx:
      return amx::kKernels;
#endif
#ifdef FLASHONNX_HAS_AVX512_BF16
    case Isa::kAvx512Bf16:
      return avx512_bf16::kKernels;
#endif
#ifdef FLASHONNX_HAS_AVX512
    case Isa::kAvx512:
      return avx512::kKernels;
#endif
#ifdef FLASHONNX_HAS_AVX2
    case Isa::kAvx2:
      return avx2::kKernels;
#endif
    case Isa::kAmxEmulated:
      return amx_emulated::kKernels;
    default:
      return generic::kKernels;
  }
}

}  // namespace flashonnx::cpu

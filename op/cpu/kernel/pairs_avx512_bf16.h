// Pairs of bfloat16 with AVX512_BF16. Interface: multiply_pairs.h.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

inline void store_pairs(uint32_t* p, Vec even, Vec odd) {
  // One conversion gives all even values, then all odd ones.
  const __m512i one_after_another = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  alignas(64) static constexpr uint16_t kInterleaved[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved), one_after_another));
}

inline Vec load_pairs(const uint16_t* even, const uint16_t* odd) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

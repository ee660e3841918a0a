// Products of pairs by AVX512_BF16's VDPBF16PS: a pair of A, broadcast, times a row of B. Interface: multiply_pairs.h.
#pragma once

#include <cstring>

#include "op/cpu/kernel/panel.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

constexpr int64_t kRowStep = 1;
constexpr int64_t kDepthStep = 2;

class PairMultiplier {
 public:
  void multiply(const uint16_t* a, int64_t a_stride, int64_t rows, const uint32_t* b, int64_t depth, float* c) const {
    for (int64_t r = 0, group; r < rows; r += group) {
      group = group_of(rows - r);
      with_constant<kMaxBroadcasts>(group, [&](auto n) {
        multiply_rows<decltype(n)::value>(a + r * a_stride, a_stride, b, depth, c + r * kPanelRows);
      });
    }
  }

 private:
  template <int N>
  static void multiply_rows(const uint16_t* a, int64_t a_stride, const uint32_t* b, int64_t depth, float* c) {
    Vec sums[N][kPanelVectors];
    clear_sums(sums);
    for (int64_t k = 0; k < depth; k += 2) {
      __m512bh b_row[kPanelVectors];
      for (int v = 0; v < kPanelVectors; ++v) {
        b_row[v] = (__m512bh)_mm512_loadu_si512(b + k / 2 * kPanelRows + v * kLanes);
      }
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const __m512bh pair = broadcast_pair(a + n * a_stride + k);
        for (int v = 0; v < kPanelVectors; ++v) sums[n][v] = _mm512_dpbf16_ps(sums[n][v], pair, b_row[v]);
      }
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      for (int v = 0; v < kPanelVectors; ++v) store(c + n * kPanelRows + v * kLanes, sums[n][v]);
    }
  }

  static __m512bh broadcast_pair(const uint16_t* values) {
    int pair;
    std::memcpy(&pair, values, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

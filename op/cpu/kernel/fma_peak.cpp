#include "op/cpu/kernel/fma_peak.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

static_assert(kFmaVectors * kLanes <= kMaxFmaSums);

void run_fma_peak(int64_t rounds, float* sums) {
  const Vec half = in_register(broadcast(0.5f)), one = in_register(broadcast(1.0f));
  Vec sum[kFmaVectors];
  for (int i = 0; i < kFmaVectors; ++i) sum[i] = load(sums + i * kLanes);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kFmaVectors; ++i) sum[i] = fma(sum[i], half, one);
  }
  for (int i = 0; i < kFmaVectors; ++i) store(sums + i * kLanes, sum[i]);
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// The copy engine: boxes of a rank-4 tensor into shared memory (PTX ISA 8.0, "cp.async.bulk.tensor").
#pragma once

#include <cuda.h>

#include <cstdint>

#include "op/cuda/ptx/barrier.cuh"

namespace flashonnx::cuda {

enum class L2Hint { kEvictFirst, kEvictLast };

template <L2Hint kHint>
__device__ inline uint64_t l2_policy() {
  uint64_t policy;
  if constexpr (kHint == L2Hint::kEvictFirst) {
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  } else {
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  }
  return policy;
}

__device__ inline void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies the box at (column, row, head, batch); what lies outside of the tensor arrives as zeros. The box's bytes
// are counted on `barrier`.
__device__ inline void load_box(void* shared, const CUtensorMap* map, uint64_t* barrier, uint64_t policy, int column,
                                int row, int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(head), "r"(batch), "l"(policy)
      : "memory");
}

}  // namespace flashonnx::cuda

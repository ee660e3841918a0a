// How the sm_90 kernel holds a block of attn_mask in shared memory, and how scores find their values there.
#pragma once

#include "op/cuda/ptx/barrier.cuh"
#include "op/cuda/ptx/mma.cuh"
#include "op/cuda/scores.cuh"

namespace flashonnx::cuda {

// Where a byte of a panel's row lies: 128 bytes a row, their 16-byte chunks swizzled as TMA's 128-byte mode does.
__device__ inline int swizzled(int row, int byte) { return row * 128 + ((byte / 16 ^ row % 8) << 4) + byte % 16; }

// Two columns of 8 at a time: ldmatrix's layout of 16-bit elements is that of the scores.
template <typename Element, int kSize>
__device__ inline void load_mask_elements(MaskValues<Element, kSize>& values, const char* panels, int panel_bytes,
                                          int first_row) {
  const int lane = threadIdx.x % 32;
  const int row = first_row < 0 ? 0 : first_row + lane % 16;
#pragma unroll
  for (int i = 0; i < kSize / 8; ++i) {
    uint32_t pairs[4];
    load_matrices(pairs, shared_address(panels + i / 4 * panel_bytes + swizzled(row, i % 4 * 32 + lane / 16 * 16)));
#pragma unroll
    for (int j = 0; j < 4; ++j) values.pairs[4 * i + j][0] = pairs[j];
  }
}

template <typename Element, int kSize>
__device__ inline void load_mask_bytes(MaskValues<Element, kSize>& values, const char* panel, int first_row) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) {
    const int row = first_row < 0 ? 0 : first_row + lane / 4 + 8 * (i % 2);
    const char* pair = panel + swizzled(row, i / 2 * 8 + lane % 4 * 2);
    values.pairs[i][0] = *reinterpret_cast<const uint16_t*>(pair);
  }
}

// The values for the 16 rows of a warp from `first_row` on; -1: one row, the panels' first, serves all.
template <typename Element, int kSize>
__device__ inline void load_mask(MaskValues<Element, kSize>& values, const char* panels, int panel_bytes, int first_row,
                                 bool bool_mask) {
  if (bool_mask) {
    load_mask_bytes(values, panels, first_row);
  } else {
    load_mask_elements(values, panels, panel_bytes, first_row);
  }
}

}  // namespace flashonnx::cuda

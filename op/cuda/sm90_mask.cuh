// How the sm_90 kernel holds a block of attn_mask in shared memory, and how scores find their values there.
//
// Panels of 128-byte rows, whose 16-byte chunks are swizzled as TMA's 128-byte mode does: byte b of row r lies at
// 128 r + (b ^ 16 (r % 8)).
#pragma once

#include "op/cuda/ptx/barrier.cuh"
#include "op/cuda/ptx/mma.cuh"
#include "op/cuda/scores.cuh"

namespace flashonnx::cuda {

// Reads a thread's values of a block only where they are applied: there are no registers to hold them in, but for
// kAhead times 16 columns of a float mask. These are read, and where the others lie is worked out, before: while the
// products run that give the scores.
template <typename Element, int kSize, int kPanelBytes, int kAhead>
class MaskReader {
 public:
  using Values = MaskValues<Element, kSize>;

  // For the 16 rows of a warp from `first_row` on; -1: one row, the first, serves all.
  __device__ MaskReader(const char* panels, int first_row, bool bool_mask) : next_rows_(first_row < 0 ? 0 : 8 * 128) {
    const int lane = threadIdx.x % 32;
    const int row = first_row < 0 ? 0 : first_row + (bool_mask ? lane / 4 : lane % 16);
    const int byte = bool_mask ? lane % 4 * 2 : lane / 16 * 16;
    start_ = shared_address(panels) + row * 128 + (byte ^ row % 8 * 16);
    asm volatile("" : "+r"(start_));  // here, and not where it is used
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load_matrices(ahead_[i], elements(i));
  }

  template <bool kBool>
  __device__ Values values() const {
    Values values;
    if constexpr (kBool) {
      read_bytes(values);
    } else {
      read_elements(values);
    }
    return values;
  }

 private:
  // This thread's row in the i-th 16 columns.
  __device__ uint32_t elements(int i) const { return (start_ ^ i % 4 * 32) + i / 4 * kPanelBytes; }

  // Two columns of 8 at a time: ldmatrix's layout of 16-bit elements is that of the scores.
  __device__ void read_elements(Values& values) const {
#pragma unroll
    for (int i = 0; i < kSize / 8; ++i) {
      uint32_t pairs[4];
      if (i >= kAhead) load_matrices(pairs, elements(i));
#pragma unroll
      for (int j = 0; j < 4; ++j) values.pairs[4 * i + j][0] = i < kAhead ? ahead_[i][j] : pairs[j];
    }
  }

  __device__ void read_bytes(Values& values) const {
#pragma unroll
    for (int j = 0; j < kSize / 4; ++j) {
      const uint32_t pair = start_ ^ j * 8;
      values.pairs[2 * j][0] = load_two_bytes(pair);
      values.pairs[2 * j + 1][0] = load_two_bytes(pair + next_rows_);
    }
  }

  uint32_t start_;      // shared address of its first values; columns change bits 3 to 6 of it
  uint32_t next_rows_;  // bytes to the second of its two rows
  uint32_t ahead_[kAhead > 0 ? kAhead : 1][4];
};

}  // namespace flashonnx::cuda

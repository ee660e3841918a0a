// What a warp multiplies, 16 columns of k at a time: 16-bit elements as they are, floats in two parts of tf32 each.
//
// With x = big + small, both of tf32's 11 significant bits, a b = big big + big small + small big to about 2^-22
// (Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores", arXiv 2203.03341). Tensor cores round
// sums towards zero, so sums are short there, small terms first, and longer ones are made by ordinary additions.
#pragma once

#include "op/cuda/ptx/mma.cuh"

namespace flashonnx::cuda {

// 16 rows of A. Element order is that of mma.sync's registers.
template <typename Element>
struct AFragment {
  uint32_t words[4];
};

// 16 columns of B: words 0 and 1 are of the first 8.
template <typename Element>
struct BFragment {
  uint32_t words[4];
};

struct Tf32Parts {
  uint32_t big[8], small[8];

  __device__ void set(int i, float value) {
    const float rounded = round_to_tf32(value);
    big[i] = __float_as_uint(rounded);
    small[i] = __float_as_uint(value - rounded);  // NaN where `value` is; tensor cores read the upper 11 bits
  }
};

// [4 s + i]: register i for the s-th 8 of the 16 columns. Which column is which is up to whoever loads A and B alike.
template <>
struct AFragment<float> : Tf32Parts {};

// [4 n + 2 s + i]: register i for the n-th 8 columns of B and the s-th 8 of k.
template <>
struct BFragment<float> : Tf32Parts {};

// d += a b, d of 16 columns: two m16n8 accumulators.
template <typename Element>
__device__ inline void multiply(float* d, const AFragment<Element>& a, const BFragment<Element>& b) {
  if constexpr (sizeof(Element) == 2) {
    mma<Element>(d, a.words, b.words[0], b.words[1]);
    mma<Element>(d + 4, a.words, b.words[2], b.words[3]);
  } else {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float sum[4] = {};
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int k = 4 * n + 2 * s;
        mma_tf32(sum, a.small + 4 * s, b.big[k], b.big[k + 1]);
        mma_tf32(sum, a.big + 4 * s, b.small[k], b.small[k + 1]);
      }
#pragma unroll
      for (int s = 0; s < 2; ++s) mma_tf32(sum, a.big + 4 * s, b.big[4 * n + 2 * s], b.big[4 * n + 2 * s + 1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) d[4 * n + i] += sum[i];
    }
  }
}

// 16 columns of an accumulator (probabilities) as A.
template <typename Element>
__device__ inline AFragment<Element> as_a(const float* s) {
  AFragment<Element> a;
  if constexpr (sizeof(Element) == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a.words[i] = pack<Element>(s[2 * i], s[2 * i + 1]);
  } else {
    // A thread's columns 2t and 2t + 1 of the accumulator are its columns t and t + 4 of A: see load_b_of_columns.
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
      a.set(half, s[half]);
      a.set(half + 1, s[half + 2]);
      a.set(half + 2, s[half + 1]);
      a.set(half + 3, s[half + 3]);
    }
  }
  return a;
}

}  // namespace flashonnx::cuda

// Online softmax over the two rows that a thread holds of an m16n8 accumulator.
//
// Source: Dao et al., "FlashAttention" (arXiv 2205.14135), algorithm 1. The maximum that exponentials are taken
// against may lag behind the true one by up to kLag powers of two: probabilities then exceed 1, which floating
// point carries without loss, and most rescalings of the output fall away.
#pragma once

#include "op/cuda/scores.cuh"

namespace flashonnx::cuda {

constexpr float kLag = 8;

struct RowState {
  float max = -INFINITY;  // that the exponentials are taken against, in score units
  float sum = 0;          // of this thread's columns only, until finish_row
};

__device__ inline float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ inline float quad_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// The maxima of both rows over all their columns. Four chains a row: one dependent maximum after the other would take
// as long as the exponentials.
template <int kSize>
__device__ inline void block_maxima(const float (&s)[kSize], float (&maxima)[2]) {
  float chains[2][2][2];
#pragma unroll
  for (int j = 0; j < kSize / 4; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& chain = chains[r][c][j % 2];
        chain = j < 2 ? s[4 * j + 2 * r + c] : fmaxf(chain, s[4 * j + 2 * r + c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const auto& chain = chains[r];
    maxima[r] = quad_max(fmaxf(fmaxf(chain[0][0], chain[0][1]), fmaxf(chain[1][0], chain[1][1])));
  }
}

// Powers of two per score unit, for exponentials against `base`. A base so large that the scaled one would overflow (a
// row whose mask is -3e38 throughout) takes any that does not: its neighbours are further away than exponents reach.
__device__ inline float safe_unit(float log2_unit, float base) { return fabsf(base) < 1e38f ? log2_unit : 0.25f; }

// Scores of one block to unnormalised probabilities, in place; `correction` is what earlier sums and outputs of each
// row are to be multiplied by. One score unit is `log2_unit` powers of two. kSubtractFirst: the maximum is subtracted
// before scaling, which costs an instruction more and rounds less, or together with it.
template <bool kSubtractFirst, int kSize>
__device__ inline void softmax_step(float (&s)[kSize], RowState (&rows)[2], float log2_unit, float (&correction)[2]) {
  float maxima[2];
  block_maxima(s, maxima);

  float base[2];
  float units[2];
  float scaled_base[2];
  float sums[2][2] = {};  // two chains a row, as for the maxima
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float old = rows[r].max;
    const bool lags = (maxima[r] - old) * log2_unit <= kLag;  // false where both are -inf
    const float next = lags ? old : fmaxf(old, maxima[r]);
    base[r] = next == -INFINITY ? 0.f : next;  // a row without an allowed key so far: exp2(-inf) = 0
    units[r] = kSubtractFirst ? log2_unit : safe_unit(log2_unit, base[r]);
    scaled_base[r] = base[r] * units[r];
    // The difference of what scores are and were compared with, roundings included.
    const float step = kSubtractFirst ? (old - base[r]) * units[r] : __fmul_rn(old, units[r]) - scaled_base[r];
    correction[r] = lags ? 1.f : fast_exp2(step);
    rows[r].max = next;
  }

#pragma unroll
  for (int j = 0; j < kSize / 4; ++j) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& score = s[4 * j + 2 * r + c];
        if constexpr (kSubtractFirst) {
          score = fast_exp2((score - base[r]) * units[r]);
        } else {
          score = fast_exp2(fmaf(score, units[r], -scaled_base[r]));
        }
        sums[r][c] += score;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) rows[r].sum = rows[r].sum * correction[r] + (sums[r][0] + sums[r][1]);
}

// Applies a correction to the output so far; free where no row of the warp has one.
template <int kSize>
__device__ inline void rescale(float (&o)[kSize], const float (&correction)[2]) {
  if (!__any_sync(~0u, correction[0] != 1.f || correction[1] != 1.f)) return;
#pragma unroll
  for (int j = 0; j < kSize / 4; ++j) {
    o[4 * j] *= correction[0];
    o[4 * j + 1] *= correction[0];
    o[4 * j + 2] *= correction[1];
    o[4 * j + 3] *= correction[1];
  }
}

struct RowResult {
  float factor = 0;       // from the accumulated to the final output
  float lse = -INFINITY;  // natural log
};

// A row's statistics (already summed over its threads) to its result; a row with no allowed key gives 0 and -inf.
// One score unit is `unit` in natural logarithms. `sink`: null, or one more logit in the denominator (Xiao et al.,
// arXiv 2309.17453, as in models of GPT-OSS). The sum is 1 at least, up to the lag of the maximum.
__device__ inline RowResult finish_row(float max, float sum, float unit, const float* sink) {
  if (max == -INFINITY) return {};
  float natural_max = max * unit;
  float factor = 1;
  if (sink != nullptr) {
    const float both = fmaxf(natural_max, *sink);
    factor = exp2f((natural_max - both) * kLog2E);
    sum = sum * factor + exp2f((*sink - both) * kLog2E);
    natural_max = both;
  }
  return {factor * fast_reciprocal(sum), natural_max + logf(sum)};
}

}  // namespace flashonnx::cuda

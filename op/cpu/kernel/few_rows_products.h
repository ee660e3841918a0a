// Q K^T and P V for rows that read the same keys: lanes run along head_size, and a vector of K or V serves a group of
// rows while it is in a register.
//
// Rows form groups of R, which divides kLanes. A step takes kStepKeys keys, so that their products with the rows
// of a group fill a vector once each is added up: lane r * kStepKeys + n holds row r's score of the step's key n.
#pragma once

#include "op/cpu/kernel/block.h"
#include "op/cpu/kernel/next_keys.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// Two blocks of K and V, this one and the next, are a small part of the second-level cache; what a block costs beside
// its products is felt less in longer ones, but 64 rows of floats crowd each other out of the first level.
constexpr int64_t kMaxFewRowsBlockKeys = 64;
template <DType kType>
constexpr int64_t kFewRowsBlockKeys = kType == DType::kFloat ? kMaxFewRowsBlockKeys / 2 : kMaxFewRowsBlockKeys;

template <int R>
constexpr int kStepKeys = kLanes / R;

// A pair is what a group multiplies at once: a pair of vectors (values.h) of each key of a step. Lines are asked for
// every few pairs: as many as are read, half of them of K and half of V, and at least one of either.
template <DType kType, int R>
constexpr int kBytesOfPair = kStepKeys<R> * kPair * (kType == DType::kFloat ? 4 : 2);
template <DType kType, int R>
constexpr int kPairsATurn =
    kBytesOfPair<kType, R> >= 2 * NextKeys::kLine ? 1 : 2 * NextKeys::kLine / kBytesOfPair<kType, R>;
template <DType kType, int R>
constexpr int kLinesATurn = kPairsATurn<kType, R> * kBytesOfPair<kType, R> / (2 * NextKeys::kLine);

// scores = scale * q . keys, a vector a step and group, (group, steps of a whole block, kLanes). Past the last key, its
// scores are repeated. q is (group, vector of head_size, R, kLanes).
template <DType kType, int R>
__attribute__((noinline)) void score_keys(const StoredRows& keys, int64_t count, int64_t head_size, float scale,
                                          int groups, const float* q, NextKeys next, float* scores) {
  constexpr int N = kStepKeys<R>, kTurn = kPairsATurn<kType, R>;
  for (int64_t j = 0; j < count; j += N, scores += kLanes) {
    const char* key[N];
    for (int n = 0; n < N; ++n) key[n] = keys.row(j + n < count ? j + n : count - 1);
    const float* q_part = q;
    for (int g = 0; g < groups; ++g) {
      Vec sums[kLanes];
      for (int i = 0; i < kLanes; ++i) sums[i] = broadcast(0.0f);
      const auto add_pair = [&](int64_t d) {
        for (int part = 0; part < 2; ++part) {
          Vec k[N];
          for (int n = 0; n < N; ++n) k[n] = load_of_pair<kType>(key[n], d, part);
          for (int r = 0; r < R; ++r, q_part += kLanes) {
            const Vec q_row = in_register(load(q_part));
            for (int n = 0; n < N; ++n) sums[r * N + n] = fma(q_row, k[n], sums[r * N + n]);
          }
        }
      };
      int64_t d = 0;
      for (; d + kTurn * kPair <= head_size; d += kTurn * kPair) {
        if (g == 0) next.ask(kLinesATurn<kType, R>);
#pragma GCC unroll 16
        for (int i = 0; i < kTurn; ++i) add_pair(d + i * kPair);
      }
      for (; d < head_size; d += kPair) add_pair(d);
      store(scores + g * R * kFewRowsBlockKeys<kType>, sum_each(sums) * broadcast(scale));
    }
  }
}

// o = factor * o + sum of p values, of R * groups rows, `v_head_size` apart in o; p is laid out as scores are. A block
// is summed by itself first: see panel.h.
template <DType kType, int R>
__attribute__((noinline)) void add_values(const StoredRows& values, int64_t count, int64_t v_head_size, int groups,
                                          const float* p, const float* factor, NextKeys next, float* o) {
  constexpr int N = kStepKeys<R>, kTurnKeys = kPairsATurn<kType, R> * N;
  for (int64_t d = 0; d < v_head_size; d += kPair) {
    for (int g = 0; g < groups; ++g) {
      Vec sums[R][2];
      for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = broadcast(0.0f);
      const float* p_part = p + g * R * kFewRowsBlockKeys<kType>;
      const char* value = values.data + d * bytes_of(kType);
      const auto add_key = [&](int n) {
        const float* p_key = p_part + n / N * kLanes + n % N;
        for (int part = 0; part < 2; ++part) {
          const Vec v = load_of_pair<kType>(value, 0, part);
          for (int r = 0; r < R; ++r) sums[r][part] = fma(broadcast(p_key[r * N]), v, sums[r][part]);
        }
        value += values.stride;
      };
      int64_t j = 0;
      for (; j + kTurnKeys <= count; j += kTurnKeys, p_part += kTurnKeys / N * kLanes) {
        if (g == 0) next.ask(kLinesATurn<kType, R>);
#pragma GCC unroll 16
        for (int n = 0; n < kTurnKeys; ++n) add_key(n);
      }
      for (int n = 0; j + n < count; ++n) add_key(n);
      for (int r = 0; r < R; ++r) {
        for (int part = 0; part < 2; ++part) {
          float* sum = o + (g * R + r) * v_head_size + d + part * kLanes;
          store(sum, fma(broadcast(factor[g * R + r]), load(sum), sums[r][part]));
        }
      }
    }
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// The micro-kernel: C = A B and C = diag(f) C + A B for panels, matrices whose rows are kPanelRows query rows wide.
//
// Lanes are query rows, so scores and outputs are computed transposed: S^T = K Q^T and O^T = V^T P^T. K and V are read
// in place, an element at a time, broadcast to all lanes; only Q is packed. Row maxima, sums and rescaling are then
// plain vector operations.
#pragma once

#include "op/cpu/kernel/next_keys.h"
#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

constexpr int kPanelVectors = 2;
constexpr int kPanelRows = kPanelVectors * kLanes;

// sums[n] += a[n * a_n] * b, b being kPanelRows values.
template <int N>
__attribute__((always_inline)) inline void multiply_row(const float* a, int64_t a_n, const float* b,
                                                        Vec (&sums)[N][kPanelVectors]) {
  Vec b_row[kPanelVectors];
  for (int v = 0; v < kPanelVectors; ++v) b_row[v] = load(b + v * kLanes);
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vec factor = broadcast(a[n * a_n]);
    for (int v = 0; v < kPanelVectors; ++v) sums[n][v] = fma(factor, b_row[v], sums[n][v]);
  }
}

// sums[n] += sum over k < depth of a[n * a_n + k * a_k] * b[k]; b has kPanelRows columns. Four k a turn: where another
// thread shares the core, instructions that only count are felt.
template <int N>
__attribute__((always_inline)) inline void multiply(const float* a, int64_t a_n, int64_t a_k, const float* b,
                                                    int64_t depth, Vec (&sums)[N][kPanelVectors]) {
  constexpr int kTurn = 4;
  int64_t k = 0;
  for (; k + kTurn <= depth; k += kTurn) {
#pragma GCC unroll 16
    for (int i = 0; i < kTurn; ++i) multiply_row(a + (k + i) * a_k, a_n, b + (k + i) * kPanelRows, sums);
  }
  for (; k < depth; ++k) multiply_row(a + k * a_k, a_n, b + k * kPanelRows, sums);
}

template <int N>
inline void clear_sums(Vec (&sums)[N][kPanelVectors]) {
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    for (int v = 0; v < kPanelVectors; ++v) sums[n][v] = broadcast(0.0f);
  }
}

// The largest value of each column of a panel's scores.
struct Maxima {
  Vec of[kPanelVectors];
};

inline Maxima no_maxima() {
  Maxima most;
  for (int v = 0; v < kPanelVectors; ++v) most.of[v] = broadcast(-__builtin_inff());
  return most;
}

// Of scores that were edited since they were computed.
inline Maxima maxima_of(const float* scores, int64_t count) {
  Maxima most = no_maxima();
  for (int64_t j = 0; j < count; ++j) {
    for (int v = 0; v < kPanelVectors; ++v) most.of[v] = max(load(scores + j * kPanelRows + v * kLanes), most.of[v]);
  }
  return most;
}

// N rows of S^T: keys' rows lie `stride` apart, q is (head_size, kPanelRows).
template <int N>
void score_keys(const float* keys, int64_t stride, const float* q, int64_t head_size, float* scores, Maxima& most) {
  Vec sums[N][kPanelVectors];
  clear_sums(sums);
  multiply<N>(keys, stride, 1, q, head_size, sums);
  for (int v = 0; v < kPanelVectors; ++v) {
    Vec m = most.of[v];  // in a register: for all the compiler knows, `scores` may be `most`
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      store(scores + n * kPanelRows + v * kLanes, sums[n][v]);
      m = max(sums[n][v], m);
    }
    most.of[v] = m;
  }
}

// N rows of O^T: o = factor * o + V^T P^T, p is (count, kPanelRows), factor (kPanelRows). A block is summed by itself
// first: the error then grows with the length of a block and the number of blocks, not with the number of keys.
template <int N>
void add_values(const float* values, int64_t stride, const float* p, int64_t count, const float* factor, float* o) {
  Vec sums[N][kPanelVectors];
  clear_sums(sums);
  multiply<N>(values, 1, stride, p, count, sums);
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    for (int v = 0; v < kPanelVectors; ++v) {
      float* sum = o + n * kPanelRows + v * kLanes;
      store(sum, fma(load(factor + v * kLanes), load(sum), sums[n][v]));
    }
  }
}

// Rows to do next of `left`: as many as registers hold, but never a last group so small that it waits for its sums.
constexpr int64_t group_of(int64_t left) {
  if (left <= kMaxBroadcasts) return left;
  return left <= kMaxBroadcasts + kMaxBroadcasts / 2 ? (left + 1) / 2 : kMaxBroadcasts;
}

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls body(Constant<n>) for n in [1, Max].
template <int Max, typename Body>
inline void with_constant(int64_t n, const Body& body) {
  if constexpr (Max > 0) {
    if (n == Max) return body(Constant<Max>{});
    with_constant<Max - 1>(n, body);
  }
}

// What is asked for ahead, a share with each group of rows of a product.
class Ahead {
 public:
  // `lines_a_group` of either K or V.
  Ahead(const NextKeys& keys, int lines_a_group) : keys_(keys), lines_a_group_(lines_a_group) {}

  void ask(int64_t groups = 1) {
    if (lines_a_group_ > 0) ask_for(static_cast<int>(groups * lines_a_group_));
  }

 private:
  // Out of the way of short problems, which have no next block.
  __attribute__((noinline)) void ask_for(int lines) { keys_.ask(lines); }

  NextKeys keys_;
  const int lines_a_group_;
};

constexpr int64_t groups_of(int64_t rows) { return (rows + kMaxBroadcasts - 1) / kMaxBroadcasts; }

// S^T of `count` keys, and its maxima.
inline Maxima score_all(const float* keys, int64_t stride, int64_t count, const float* q, int64_t head_size,
                        Ahead& ahead, float* scores) {
  Maxima most = no_maxima();
  for (int64_t j = 0, group; j < count; j += group) {
    group = group_of(count - j);
    ahead.ask();
    with_constant<kMaxBroadcasts>(group, [&](auto n) {
      score_keys<decltype(n)::value>(keys + j * stride, stride, q, head_size, scores + j * kPanelRows, most);
    });
  }
  return most;
}

// O^T of all v_head_size columns of V.
inline void add_all_values(const float* values, int64_t stride, int64_t count, int64_t v_head_size, const float* p,
                           const float* factor, Ahead& ahead, float* o) {
  for (int64_t d = 0, group; d < v_head_size; d += group) {
    group = group_of(v_head_size - d);
    ahead.ask();
    with_constant<kMaxBroadcasts>(group, [&](auto n) {
      add_values<decltype(n)::value>(values + d, stride, p, count, factor, o + d * kPanelRows);
    });
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Q K^T and P V for a group of up to four rows that read the same keys: lanes run along head_size, and a vector of K or
// V serves all rows of the group while it is in a register.
//
// The products set the pace only while memory keeps up. So each of them asks for the rows that the next one will read:
// a stream of requests as even as the work.
#pragma once

#include "op/cpu/kernel/block.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

constexpr int kGroupRows = 4;
constexpr int64_t kFewRowsBlockKeys = 32;  // K and V of a block, and the next ones on their way, stay in L1

// Rows of K or V as they lie in memory.
struct StoredRows {
  const char* data;
  int64_t stride;  // in bytes

  const char* row(int64_t i) const { return data + i * stride; }
};

// Bytes [begin, end) of each of `count` rows, to be fetched into the caches.
struct Prefetch {
  StoredRows rows;
  int64_t count;
  int64_t begin, end;

  void fetch(int64_t row) const {
    constexpr int64_t kCacheLine = 64;
    if (row >= count) return;
    for (int64_t byte = begin; byte < end; byte += kCacheLine) __builtin_prefetch(rows.row(row) + byte);
  }
};

// Packed rows of Q, scores or sums: floats, `stride` apart.
struct PackedRows {
  float* data;
  int64_t stride;

  float* row(int64_t r) const { return data + r * stride; }
};

// The products of R rows of q and N keys, as kLanes sums each that are yet to be added up: sums[r][first + n].
template <DType kType, int R, int N>
inline void multiply_keys(const char* const* keys, int first, int64_t head_size, const PackedRows& q,
                          Vec (&sums)[R][kLanes]) {
  Vec partial[R][N];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) partial[r][n] = broadcast(0.0f);
  }
  for (int64_t d = 0; d < head_size; d += kPair) {
    for (int part = 0; part < 2; ++part) {
      Vec k[N];
      for (int n = 0; n < N; ++n) k[n] = load_of_pair<kType>(keys[first + n], d, part);
      for (int r = 0; r < R; ++r) {
        const Vec q_part = in_register(load(q.row(r) + d + part * kLanes));
        for (int n = 0; n < N; ++n) partial[r][n] = fma(q_part, k[n], partial[r][n]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) sums[r][first + n] = partial[r][n];
  }
}

// scores[r][j] = scale * q[r] . keys[j], of R rows; those from `count` to the next multiple of kLanes mean nothing.
template <DType kType, int R>
__attribute__((noinline)) void score_group(const StoredRows& keys, int64_t count, int64_t head_size, float scale,
                                           const PackedRows& q, const Prefetch& next, const PackedRows& scores) {
  constexpr int N = R == 1 ? kLanes : R == 2 ? 4 : 2;  // R * N sums hide the latency of the FMA units
  for (int64_t j = 0; j < count; j += kLanes) {
    const char* key[kLanes];
    for (int n = 0; n < kLanes; ++n) key[n] = keys.row(j + n < count ? j + n : count - 1);
    Vec sums[R][kLanes];
    for (int n = 0; n < kLanes; n += N) {
      for (int i = 0; i < N; ++i) next.fetch(j + n + i);
      multiply_keys<kType, R, N>(key, n, head_size, q, sums);
    }
    for (int r = 0; r < R; ++r) store(scores.row(r) + j, sum_each(sums[r]) * broadcast(scale));
  }
}

// o[r] = factor[r] * o[r] + sum of p[r][j] values[j]. A block is summed by itself first: see panel.h.
template <DType kType, int R>
__attribute__((noinline)) void add_group_values(const StoredRows& values, int64_t count, int64_t v_head_size,
                                                const PackedRows& p, const float* factor, const Prefetch& next,
                                                const PackedRows& o) {
  for (int64_t d = 0; d < v_head_size; d += kPair) {
    const int64_t first = d * count / v_head_size, last = (d + kPair) * count / v_head_size;
    for (int64_t j = first; j < last; ++j) next.fetch(j);
    Vec sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = broadcast(0.0f);
    for (int64_t j = 0; j < count; ++j) {
      for (int part = 0; part < 2; ++part) {
        const Vec v = load_of_pair<kType>(values.row(j), d, part);
        for (int r = 0; r < R; ++r) sums[r][part] = fma(broadcast(p.row(r)[j]), v, sums[r][part]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int part = 0; part < 2; ++part) {
        float* sum = o.row(r) + d + part * kLanes;
        store(sum, fma(broadcast(factor[r]), load(sum), sums[r][part]));
      }
    }
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Q K^T and P V for a group of up to four rows that read the same keys: lanes run along head_size, and a vector of K or
// V serves all rows of the group while it is in a register.
//
// Memory keeps up only if it is asked early and evenly: each product asks for the rows that the next one will read, and
// returns what it leaves to ask for.
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

// Rows of K or V on their way into the caches: with each step of a product, another part of them is asked for. Asked
// for at once, they would fill the buffers that the product's own loads need.
class Prefetch {
 public:
  // `count` rows of so many bytes, in as many steps as `products` products take that read as many rows as long.
  Prefetch(const StoredRows& rows, int64_t count, int64_t row_bytes, int64_t bytes_a_pair, int64_t products)
      : rows_(rows), count_(count), row_bytes_(row_bytes), bytes_a_step_((bytes_a_pair + products - 1) / products) {}

  // Called for each few pairs of vectors that a product reads.
  void step(int pairs) {
    for (due_ += pairs * bytes_a_step_; due_ >= kCacheLine; due_ -= kCacheLine) fetch_line();
  }

 private:
  static constexpr int64_t kCacheLine = 64;

  void fetch_line() {
    if (row_ == count_) return;
    __builtin_prefetch(rows_.row(row_) + byte_);
    byte_ += kCacheLine;
    if (byte_ < row_bytes_) return;
    byte_ = 0;
    ++row_;
  }

  StoredRows rows_;
  int64_t count_, row_bytes_, bytes_a_step_;
  int64_t row_ = 0, byte_ = 0;  // the next line to ask for
  int64_t due_ = 0;
};

// Packed rows of Q, scores or sums: floats, `stride` apart.
struct PackedRows {
  float* data;
  int64_t stride;

  float* row(int64_t r) const { return data + r * stride; }
  PackedRows from(int64_t r) const { return {row(r), stride}; }
};

// The products of R rows of q and N keys, as kLanes sums each that are yet to be added up: sums[r][first + n].
template <DType kType, int R, int N>
inline void multiply_keys(const char* const* keys, int first, int64_t head_size, const PackedRows& q, Prefetch& next,
                          Vec (&sums)[R][kLanes]) {
  Vec partial[R][N];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) partial[r][n] = broadcast(0.0f);
  }
  for (int64_t d = 0; d < head_size; d += kPair) {
    next.step(N);
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
__attribute__((noinline)) Prefetch score_group(const StoredRows& keys, int64_t count, int64_t head_size, float scale,
                                               const PackedRows& q, Prefetch next, const PackedRows& scores) {
  constexpr int N = R == 1 ? kLanes : R == 2 ? 4 : 2;  // R * N sums hide the latency of the FMA units
  for (int64_t j = 0; j < count; j += kLanes) {
    const char* key[kLanes];
    for (int n = 0; n < kLanes; ++n) key[n] = keys.row(j + n < count ? j + n : count - 1);
    Vec sums[R][kLanes];
    for (int n = 0; n < kLanes; n += N) {
      multiply_keys<kType, R, N>(key, n, head_size, q, next, sums);
    }
    for (int r = 0; r < R; ++r) store(scores.row(r) + j, sum_each(sums[r]) * broadcast(scale));
  }
  return next;
}

// o[r] = factor[r] * o[r] + sum of p[r][j] values[j]. A block is summed by itself first: see panel.h.
template <DType kType, int R>
__attribute__((noinline)) Prefetch add_group_values(const StoredRows& values, int64_t count, int64_t v_head_size,
                                                    const PackedRows& p, const float* factor, Prefetch next,
                                                    const PackedRows& o) {
  constexpr int kKeysAStep = 4;
  for (int64_t d = 0; d < v_head_size; d += kPair) {
    Vec sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = broadcast(0.0f);
    for (int64_t first = 0; first < count; first += kKeysAStep) {
      next.step(kKeysAStep);
      const int64_t last = first + kKeysAStep < count ? first + kKeysAStep : count;
      for (int64_t j = first; j < last; ++j) {
        for (int part = 0; part < 2; ++part) {
          const Vec v = load_of_pair<kType>(values.row(j), d, part);
          for (int r = 0; r < R; ++r) sums[r][part] = fma(broadcast(p.row(r)[j]), v, sums[r][part]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int part = 0; part < 2; ++part) {
        float* sum = o.row(r) + d + part * kLanes;
        store(sum, fma(broadcast(factor[r]), load(sum), sums[r][part]));
      }
    }
  }
  return next;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

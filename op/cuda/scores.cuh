// From Q K^T to what the softmax sees: scale, softcap, attn_mask, ALiBi, and the interval of allowed keys.
//
// Order and meaning: ONNX Attention opset 25; ALiBi: Press et al., "Train Short, Test Long", section 3. Every tiled
// kernel holds scores as mma.sync's m16n8 accumulators: s[4j + 2r + c] is row r of the thread's two, at column
// first_column + 8j + c.
#pragma once

#include <cstdint>

#include "op/core/key_range.h"
#include "op/core/problem.h"
#include "op/cuda/ptx/element.cuh"

namespace flashonnx::cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// What applies to every score of a launch.
struct ScoreRules {
  float scale;
  float softcap;          // 0: none
  float inverse_softcap;  //
  bool has_alibi;
  bool bool_mask;
  int key_stride;       // of attn_mask
  bool pairs_of_masks;  // two neighbouring mask values may be loaded at once
};

__device__ inline ScoreRules score_rules(const Problem& problem) {
  ScoreRules rules;
  rules.scale = static_cast<float>(problem.scale);
  rules.softcap = static_cast<float>(problem.softcap);
  rules.inverse_softcap = problem.softcap > 0 ? static_cast<float>(1 / problem.softcap) : 0.f;
  rules.has_alibi = problem.alibi_slopes != nullptr;
  rules.bool_mask = problem.mask.dtype == DType::kBool;
  rules.key_stride = static_cast<int>(problem.mask.key_stride);
  const int64_t strides = problem.mask.batch_stride | problem.mask.head_stride | problem.mask.row_stride;
  const int pair_bytes = rules.bool_mask ? 2 : 4;
  rules.pairs_of_masks =
      rules.key_stride == 1 && strides % 2 == 0 && reinterpret_cast<uintptr_t>(problem.mask.data) % pair_bytes == 0;
  return rules;
}

// What applies to one query row.
struct RowRules {
  int begin = 0;  // its keys
  int end = 0;
  const void* mask = nullptr;  // its row of attn_mask
  float slope = 0;             // of ALiBi
  int position = 0;            // i + offset
};

__device__ inline RowRules row_rules(const Problem& problem, const KeyLimits& limits, int batch, int head, int query) {
  RowRules rules;
  const KeyRange range = limits.row(query);
  rules.begin = static_cast<int>(range.begin);
  rules.end = static_cast<int>(range.end > 0 ? range.end : 0);
  if (problem.mask.data != nullptr) {
    const int64_t offset =
        batch * problem.mask.batch_stride + head * problem.mask.head_stride + query * problem.mask.row_stride;
    const int64_t size = problem.mask.dtype == DType::kBool ? 1 : (problem.dtype == DType::kFloat ? 4 : 2);
    rules.mask = static_cast<const char*>(problem.mask.data) + offset * size;
  }
  if (problem.alibi_slopes != nullptr) {
    rules.slope = problem.alibi_slopes[batch * problem.alibi_batch_stride + head];
  }
  rules.position = static_cast<int>(query + limits.offset);
  return rules;
}

// softcap * tanh(x / softcap) by exp2 and a reciprocal: absolute error below 1e-6 * softcap.
__device__ inline float cap_score(float score, const ScoreRules& rules) {
  const float exponential = exp2f(2 * kLog2E * score * rules.inverse_softcap);
  return rules.softcap - 2 * rules.softcap * __fdividef(1.f, exponential + 1);
}

template <int kSize>
__device__ inline void mask_outside(float (&s)[kSize], int first_column, const RowRules (&rows)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int begin = rows[r].begin - first_column;
    const int end = rows[r].end - first_column;
#pragma unroll
    for (int j = 0; j < kSize / 4; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * j + c;
        float& score = s[4 * j + 2 * r + c];
        score = column >= begin && column < end ? score : -INFINITY;
      }
    }
  }
}

// Adds attn_mask's values for columns `column` and the next to a pair of scores; columns past `end` are not read.
template <typename Element>
__device__ inline void add_mask(float& s0, float& s1, const ScoreRules& rules, const RowRules& row, int column) {
  const bool first = column < row.end;
  const bool second = column + 1 < row.end;
  if (rules.bool_mask) {
    const auto* mask = static_cast<const uint8_t*>(row.mask);
    uint32_t m0 = 0, m1 = 0;
    if (second && rules.pairs_of_masks) {
      const uint16_t both = *reinterpret_cast<const uint16_t*>(mask + column);
      m0 = both & 0xFF;
      m1 = both >> 8;
    } else {
      if (first) m0 = mask[column * rules.key_stride];
      if (second) m1 = mask[(column + 1) * rules.key_stride];
    }
    if (m0 == 0) s0 = -INFINITY;
    if (m1 == 0) s1 = -INFINITY;
  } else {
    const auto* mask = static_cast<const Element*>(row.mask);
    if (second && rules.pairs_of_masks) {
      const float2 both = unpack<Element>(*reinterpret_cast<const uint32_t*>(mask + column));
      s0 += both.x;
      s1 += both.y;
    } else {
      if (first) s0 += to_float(mask[column * rules.key_stride]);
      if (second) s1 += to_float(mask[(column + 1) * rules.key_stride]);
    }
  }
}

// All of it, for problems that need more than the interval; the result is in natural units, scale included.
template <typename Element, int kSize>
__device__ inline void modify_scores(float (&s)[kSize], int first_column, const ScoreRules& rules,
                                     const RowRules (&rows)[2]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) s[i] *= rules.scale;
  if (rules.softcap > 0) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) s[i] = cap_score(s[i], rules);
  }
  if (rows[0].mask != nullptr) {
#pragma unroll
    for (int j = 0; j < kSize / 4; ++j) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        add_mask<Element>(s[4 * j + 2 * r], s[4 * j + 2 * r + 1], rules, rows[r], first_column + 8 * j);
      }
    }
  }
  if (rules.has_alibi) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const RowRules& row = rows[(i / 2) % 2];
      s[i] -= row.slope * fabsf(static_cast<float>(row.position - (first_column + 8 * (i / 4) + i % 2)));
    }
  }
  mask_outside(s, first_column, rows);
}

}  // namespace flashonnx::cuda

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
  float factor;           // of Q K^T, or of what softcap makes of it
  float unit;             // of the scores then: natural logarithms
  float softcap;          // 0: none
  float inverse_softcap;  //
  bool has_alibi;
  bool has_mask;
  bool bool_mask;
  int key_stride;       // of attn_mask
  bool pairs_of_masks;  // two neighbouring mask values may be loaded at once
};

FLASHONNX_HOST_DEVICE inline int mask_element_bytes(const Problem& problem) {
  if (problem.mask.dtype == DType::kBool) return 1;
  return problem.mask.dtype == DType::kFloat ? 4 : 2;
}

FLASHONNX_HOST_DEVICE inline ScoreRules score_rules(const Problem& problem) {
  ScoreRules rules;
  rules.scale = static_cast<float>(problem.scale);
  rules.softcap = static_cast<float>(problem.softcap);
  rules.inverse_softcap = problem.softcap > 0 ? static_cast<float>(1 / problem.softcap) : 0.f;
  rules.has_alibi = problem.alibi_slopes != nullptr;
  rules.has_mask = problem.mask.data != nullptr;
  rules.bool_mask = problem.mask.dtype == DType::kBool;
  // A scale, if it is positive, is left to the exponential where nothing is added to scores.
  const bool adds = rules.has_alibi || (rules.has_mask && !rules.bool_mask);
  const bool keeps_scale = !adds && problem.softcap <= 0 && rules.scale > 0;
  rules.factor = keeps_scale || problem.softcap > 0 ? 1.f : rules.scale;
  rules.unit = keeps_scale ? rules.scale : 1.f;
  rules.key_stride = static_cast<int>(problem.mask.key_stride);
  const int64_t strides = problem.mask.batch_stride | problem.mask.head_stride | problem.mask.row_stride;
  const int pair_bytes = 2 * mask_element_bytes(problem);
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
    rules.mask = static_cast<const char*>(problem.mask.data) + offset * mask_element_bytes(problem);
  }
  if (problem.alibi_slopes != nullptr) {
    rules.slope = problem.alibi_slopes[batch * problem.alibi_batch_stride + head];
  }
  rules.position = static_cast<int>(query + limits.offset);
  return rules;
}

__device__ inline float fast_exp2(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

__device__ inline float fast_reciprocal(float value) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// NaN where either is, which fminf is not.
__device__ inline float min_or_nan(float a, float b) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// softcap * tanh(scale * s / softcap), tanh(x) being 1 - 2 / (exp(2x) + 1): absolute error below 1e-6 * softcap. What
// limits this is the unit of exponentials and reciprocals, so four scores share a reciprocal, of their product.
template <int kSize>
__device__ inline void cap_scores(float (&s)[kSize], const ScoreRules& rules) {
  constexpr float kLargest = 30;  // power of two, past which tanh is 1; four of them do not overflow
  const float factor = 2 * kLog2E * rules.scale * rules.inverse_softcap;
  const float minus_double_cap = -2 * rules.softcap;
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    float terms[4], caps[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float term = 1 + fast_exp2(min_or_nan(s[i + j] * factor, kLargest));
      terms[j] = fmaxf(term, 1);                 // without a NaN, lest it spreads to the other three
      caps[j] = fmaf(term, 0.f, rules.softcap);  // with it; a predicate for each score is more than there are
    }
    const float products[2] = {terms[0] * terms[1], terms[2] * terms[3]};
    const float inverse = minus_double_cap * fast_reciprocal(products[0] * products[1]);
    const float inverses[2] = {inverse * products[1], inverse * products[0]};  // of each product, -2 softcap times
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[i + j] = fmaf(inverses[j / 2], terms[j ^ 1], caps[j]);
    }
  }
}

// Bits [0, count) of a word; counts below 0 and above 32 are as 0 and 32.
__device__ inline uint32_t low_bits(int count) { return count >= 32 ? ~0u : (count <= 0 ? 0u : (1u << count) - 1u); }

// How many of a thread's columns of a row (two in every eight) lie before column `end`, counted from first_column.
__device__ inline int columns_before(int end) { return end <= 0 ? 0 : end / 8 * 2 + min(end % 8, 2); }

// Scores of disallowed keys become -inf. One bit a column: the hardware turns bits into predicates seven at a time,
// which is cheaper than two comparisons for each.
template <int kSize>
__device__ inline void mask_outside(float (&s)[kSize], int first_column, const RowRules (&rows)[2]) {
  constexpr int kColumns = kSize / 2;  // of a row
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int begin = columns_before(rows[r].begin - first_column);
    const int end = columns_before(rows[r].end - first_column);
#pragma unroll
    for (int word = 0; word < kColumns; word += 32) {
      const uint32_t allowed = low_bits(end - word) & ~low_bits(begin - word);
#pragma unroll
      for (int i = 0; i < 32 && word + i < kColumns; ++i) {
        float& score = s[(word + i) / 2 * 4 + 2 * r + i % 2];
        score = (allowed >> i & 1u) != 0 ? score : -INFINITY;
      }
    }
  }
}

// attn_mask's values for a thread's scores, two neighbouring columns at a time: a byte each, or two elements. Fetched
// apart from being applied, so that a caller can have them on their way while something else runs.
template <typename Element, int kSize>
struct MaskValues {
  static constexpr int kWords = sizeof(Element) / 2;  // of two elements
  uint32_t pairs[kSize / 2][kWords];                  // [2j + r]

  // For apply_rules, to which any source of values will do.
  template <bool kBool>
  __device__ const MaskValues& values() const {
    return *this;
  }
};

// Two mask values as one load brings them.
template <typename Value>
struct MaskPair {
  using Type =
      std::conditional_t<sizeof(Value) == 1, uint16_t, std::conditional_t<sizeof(Value) == 2, uint32_t, uint2>>;
};

template <int kWords, typename Pair>
__device__ inline void keep_pair(uint32_t (&words)[kWords], Pair pair) {
  if constexpr (std::is_same_v<Pair, uint2>) {
    words[0] = pair.x;
    words[1] = pair.y;
  } else {
    words[0] = pair;
  }
}

template <typename Value>
__device__ inline typename MaskPair<Value>::Type mask_pair(const Value* row, int column, int end, int key_stride) {
  const Value first = column < end ? row[static_cast<int64_t>(column) * key_stride] : Value{0};
  const Value second = column + 1 < end ? row[static_cast<int64_t>(column + 1) * key_stride] : Value{0};
  if constexpr (sizeof(Value) == 4) {
    return make_uint2(first, second);
  } else {
    return static_cast<typename MaskPair<Value>::Type>(first | static_cast<uint32_t>(second) << 8 * sizeof(Value));
  }
}

template <typename Value, typename Element, int kSize>
__device__ inline void fetch_mask_as(MaskValues<Element, kSize>& values, int first_column, const ScoreRules& rules,
                                     const RowRules (&rows)[2]) {
  constexpr int kLastColumn = 8 * (kSize / 4 - 1) + 1;
  const bool inside = first_column + kLastColumn < min(rows[0].end, rows[1].end);
  if (rules.pairs_of_masks && __all_sync(~0u, inside)) {
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) {
      const Value* row = static_cast<const Value*>(rows[i % 2].mask) + first_column + 8 * (i / 2);
      keep_pair(values.pairs[i], *reinterpret_cast<const typename MaskPair<Value>::Type*>(row));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) {
      const RowRules& row = rows[i % 2];
      const int column = first_column + 8 * (i / 2);
      keep_pair(values.pairs[i], mask_pair(static_cast<const Value*>(row.mask), column, row.end, rules.key_stride));
    }
  }
}

// Keys at and past a row's end are not read.
template <typename Element, int kSize>
__device__ inline void fetch_mask(MaskValues<Element, kSize>& values, int first_column, const ScoreRules& rules,
                                  const RowRules (&rows)[2]) {
  if (!rules.has_mask) return;
  if (rules.bool_mask) {
    fetch_mask_as<uint8_t>(values, first_column, rules, rows);
  } else {
    fetch_mask_as<std::conditional_t<sizeof(Element) == 4, uint32_t, uint16_t>>(values, first_column, rules, rows);
  }
}

// s * factor + attn_mask. Each kind of mask has a loop: in one for both, every pair of scores would take a branch.
template <typename Element, int kSize>
__device__ inline void add_mask(float (&s)[kSize], float factor, const MaskValues<Element, kSize>& values) {
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) {
    const auto& pair = values.pairs[i];
    float2 added;
    if constexpr (sizeof(Element) == 4) {
      added = make_float2(__uint_as_float(pair[0]), __uint_as_float(pair[1]));
    } else {
      added = unpack<Element>(pair[0]);
    }
    s[2 * i] = fmaf(s[2 * i], factor, added.x);
    s[2 * i + 1] = fmaf(s[2 * i + 1], factor, added.y);
  }
}

// s where attn_mask is true, else -inf.
template <typename Element, int kSize>
__device__ inline void obey_mask(float (&s)[kSize], const MaskValues<Element, kSize>& values) {
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) {
    const uint32_t pair = values.pairs[i][0];
    s[2 * i] = (pair & 0xFF) != 0 ? s[2 * i] : -INFINITY;
    s[2 * i + 1] = (pair & 0xFF00) != 0 ? s[2 * i + 1] : -INFINITY;
  }
}

// All but the interval of allowed keys, for problems that need more than that; the result is in rules.unit.
template <typename MaskSource, int kSize>
__device__ inline void apply_rules(float (&s)[kSize], const MaskSource& mask, int first_column, const ScoreRules& rules,
                                   const RowRules (&rows)[2]) {
  if (rules.softcap > 0) cap_scores(s, rules);
  if (rules.has_mask && !rules.bool_mask) {
    add_mask(s, rules.factor, mask.template values<false>());
  } else if (rules.factor != 1) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) s[i] *= rules.factor;
  }
  if (rules.has_mask && rules.bool_mask) obey_mask(s, mask.template values<true>());
  if (rules.has_alibi) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const RowRules& row = rows[(i / 2) % 2];
      s[i] -= row.slope * fabsf(static_cast<float>(row.position - (first_column + 8 * (i / 4) + i % 2)));
    }
  }
}

template <typename Element, int kSize>
__device__ inline void modify_scores(float (&s)[kSize], const MaskValues<Element, kSize>& mask, int first_column,
                                     const ScoreRules& rules, const RowRules (&rows)[2]) {
  apply_rules(s, mask, first_column, rules, rows);
  mask_outside(s, first_column, rows);
}

}  // namespace flashonnx::cuda

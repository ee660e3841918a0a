// Which keys a query may see before attn_mask has its say: causal, window, padding and a short mask, as one interval.
//
// Source: ONNX Attention opset 25 (onnx 1.23.2), "is_causal", "left_window_size", "nonpad_kv_seqlen".
// Kernels on every device take their masks, their trip counts and their skipped blocks from here.
#pragma once

#include <cstdint>

#include "op/core/problem.h"

#ifdef __CUDACC__
#define FLASHONNX_HOST_DEVICE __host__ __device__
#else
#define FLASHONNX_HOST_DEVICE
#endif

namespace flashonnx {

struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;  // begin >= end: no key is allowed
};

// The limits of one batch entry; small enough to pass to a kernel by value.
struct KeyLimits {
  int64_t keys = 0;    // keys at and past this one are padding
  int64_t offset = 0;  // valid keys that precede query 0; negative where there are more queries than valid keys
  int64_t left = -1;   // widest reach to the left of i + offset, -1: unbounded
  int64_t right = -1;  // to the right, causal included, -1: unbounded

  FLASHONNX_HOST_DEVICE KeyRange row(int64_t i) const {
    const int64_t position = i + offset;
    KeyRange range{0, keys};
    // Compared so that no window is too wide to add: the largest int64 is a usual way to write "all".
    if (left >= 0 && left < position) range.begin = position - left;
    if (right >= 0 && right < keys - 1 - position) range.end = position + right + 1;
    return range;
  }

  // The keys that any of the queries [first, last] may see. Ends grow with i, so the outer rows decide.
  FLASHONNX_HOST_DEVICE KeyRange rows(int64_t first, int64_t last) const { return {row(first).begin, row(last).end}; }

  // The keys that all of them may see: a block inside needs no mask.
  FLASHONNX_HOST_DEVICE KeyRange every_row(int64_t first, int64_t last) const {
    return {row(last).begin, row(first).end};
  }
};

// Keys of a batch entry that are no padding. To be called on the side where nonpad_kv_seqlen lives.
FLASHONNX_HOST_DEVICE inline int64_t valid_keys(const Problem& problem, int64_t batch) {
  const int64_t total = problem.past_sequence_length + problem.kv_sequence_length;
  if (problem.nonpad_kv_seqlen == nullptr) return total;
  const int64_t nonpad = problem.nonpad_kv_seqlen[batch];
  return nonpad < 0 ? 0 : (nonpad < total ? nonpad : total);
}

// Likewise.
FLASHONNX_HOST_DEVICE inline KeyLimits key_limits(const Problem& problem, int64_t batch) {
  KeyLimits limits;
  limits.keys = valid_keys(problem, batch);
  limits.offset = problem.past_sequence_length;
  if (problem.nonpad_kv_seqlen != nullptr) limits.offset = limits.keys - problem.q_sequence_length;
  if (problem.mask.data != nullptr && problem.mask.length < limits.keys) limits.keys = problem.mask.length;
  limits.left = problem.left_window_size;
  limits.right = problem.right_window_size;
  if (problem.is_causal) limits.right = 0;
  return limits;
}

}  // namespace flashonnx

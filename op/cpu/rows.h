// Where rows of a problem's tensors lie in memory.
#pragma once

#include "op/core/problem.h"

namespace flashonnx::cpu {

inline const char* row(const Input& view, DType dtype, int64_t b, int64_t h, int64_t i) {
  return static_cast<const char*>(view.data) +
         (b * view.batch_stride + h * view.head_stride + i * view.row_stride) * size_of(dtype);
}

inline char* row(const Output& view, DType dtype, int64_t b, int64_t h, int64_t i) {
  return static_cast<char*>(view.data) +
         (b * view.batch_stride + h * view.head_stride + i * view.row_stride) * size_of(dtype);
}

// Row j of the past rows followed by the new ones, never joined in memory.
inline const char* cached_row(const Input& past, const Input& fresh, int64_t past_length, DType dtype, int64_t b,
                              int64_t h, int64_t j) {
  return j < past_length ? row(past, dtype, b, h, j) : row(fresh, dtype, b, h, j - past_length);
}

}  // namespace flashonnx::cpu

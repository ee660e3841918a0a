// Vectors from and to tensors of any storage type, whole or in part.
#pragma once

#include <cstring>

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// size_of (problem.h) is shared with code for other instruction sets; see tile.h.
inline int64_t bytes_of(DType dtype) { return dtype == DType::kFloat ? 4 : dtype == DType::kBool ? 1 : 2; }

inline const char* element(DType dtype, const void* base, int64_t index) {
  return static_cast<const char*>(base) + index * bytes_of(dtype);
}

inline char* element(DType dtype, void* base, int64_t index) {
  return static_cast<char*>(base) + index * bytes_of(dtype);
}

// Asks for [begin, begin + bytes) to be brought into the second-level cache.
inline void prefetch(const char* begin, int64_t bytes) {
  constexpr int64_t kCacheLine = 64;
  for (int64_t byte = 0; byte < bytes; byte += kCacheLine) __builtin_prefetch(begin + byte, 0, 2);
}

// Values of a bool mask are what they add to a score: 0 or -infinity.
inline Vec load_all(DType dtype, const void* p) {
  switch (dtype) {
    case DType::kFloat16:
      return load_half(static_cast<const uint16_t*>(p));
    case DType::kBFloat16:
      return load_bfloat16(static_cast<const uint16_t*>(p));
    case DType::kBool:
      return load_mask_bytes(static_cast<const uint8_t*>(p), -__builtin_inff());
    default:
      return load(static_cast<const float*>(p));
  }
}

// `count` values from base[index] on, then zeros; nothing past them is read.
inline Vec load_values(DType dtype, const void* base, int64_t index, int64_t count) {
  const char* p = element(dtype, base, index);
  if (count >= kLanes) return load_all(dtype, p);
  alignas(64) char values[kLanes * sizeof(float)] = {};
  std::memcpy(values, p, static_cast<size_t>(count * bytes_of(dtype)));
  return load_all(dtype, values);
}

inline void store_all(DType dtype, void* p, Vec a) {
  switch (dtype) {
    case DType::kFloat16:
      return store_half(static_cast<uint16_t*>(p), a);
    case DType::kBFloat16:
      return store_bfloat16(static_cast<uint16_t*>(p), a);
    default:
      return store(static_cast<float*>(p), a);
  }
}

inline void store_values(DType dtype, void* base, int64_t index, int64_t count, Vec a) {
  char* p = element(dtype, base, index);
  if (count >= kLanes) return store_all(dtype, p, a);
  alignas(64) char values[kLanes * sizeof(float)];
  store_all(dtype, values, a);
  std::memcpy(p, values, static_cast<size_t>(count * bytes_of(dtype)));
}

// Vectors are loaded in pairs, of 2 * kLanes values side by side, where this order of them is as good as any other: a
// bfloat16 is the upper half of a float, so zeros between the values of either half are one instruction, which stays
// within runs of eight.
constexpr int64_t kPair = 2 * kLanes;

// Vector `part` (0 or 1) of the pair from row[index] on. Which values it holds: see paired.
template <DType kType>
inline Vec load_of_pair(const char* row, int64_t index, int part) {
  if constexpr (kType == DType::kBFloat16) {
    const char* pair = element(kType, row, index);
    return part == 0 ? load_lower_bfloat16(pair) : load_upper_bfloat16(pair);
  } else {
    return load_all(kType, element(kType, row, index + part * kLanes));
  }
}

// The place, in rows read by load_of_pair, of value d. Runs of kTogether values keep together.
constexpr int64_t kTogether = 4;
template <DType kType>
constexpr int64_t paired(int64_t d) {
  return kType == DType::kBFloat16 ? d / kPair * kPair + d % kPair / 8 * 4 + d % 4 + d % 8 / 4 * kLanes : d;
}

// `columns` values of each of `count` rows, `stride` apart, as rows of floats, `out_stride` apart; zeros from the last
// value of a row to the next one's first.
template <DType kType>
inline void copy_rows_of(const void* rows, int64_t stride, int64_t count, int64_t columns, float* out,
                         int64_t out_stride) {
  for (int64_t j = 0; j < count; ++j) {
    const void* row = element(kType, rows, j * stride);
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) store(out + d, load_all(kType, element(kType, row, d)));
    for (; d < out_stride; d += kLanes) {
      const Vec rest = d < columns ? load_values(kType, row, d, columns - d) : broadcast(0.0f);
      store_values(DType::kFloat, out, d, out_stride - d, rest);
    }
    out += out_stride;
  }
}

inline void copy_rows(DType dtype, const void* rows, int64_t stride, int64_t count, int64_t columns, float* out,
                      int64_t out_stride) {
  switch (dtype) {
    case DType::kFloat16:
      return copy_rows_of<DType::kFloat16>(rows, stride, count, columns, out, out_stride);
    case DType::kBFloat16:
      return copy_rows_of<DType::kBFloat16>(rows, stride, count, columns, out, out_stride);
    default:
      return copy_rows_of<DType::kFloat>(rows, stride, count, columns, out, out_stride);
  }
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

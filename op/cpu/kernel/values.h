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

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Scalars of the storage types, for code that need not be fast: the naive kernel, mask values and tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "op/core/problem.h"

namespace flashonnx::cpu {

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// IEEE 754 binary16.
struct Half {
  uint16_t bits;

  explicit operator double() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // Moved to float's exponent field; the product with 2^112 repairs the bias, subnormals included.
    return float_from_bits(sign | magnitude << 13) * float_from_bits(0x77800000u);
  }

  // Round to nearest, ties to even; past the largest finite value, infinity.
  static Half from(double number) {
    const auto value = static_cast<float>(number);
    const uint32_t bits = bits_of(value);
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {
      // Subnormal: adding 2^-1 puts the last bit of a half at the last bit of the float, and rounds there.
      const float shifted = float_from_bits(magnitude) + 0.5f;
      return {static_cast<uint16_t>(sign | (bits_of(shifted) - bits_of(0.5f)))};
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
  }
};

// The upper half of a float.
struct BFloat16 {
  uint16_t bits;

  explicit operator double() const { return float_from_bits(static_cast<uint32_t>(bits) << 16); }

  static BFloat16 from(double number) {
    const auto value = static_cast<float>(number);
    const uint32_t bits = bits_of(value);
    if (value != value) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
  }
};

inline double load(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::kFloat:
      return static_cast<const float*>(data)[index];
    case DType::kDouble:
      return static_cast<const double*>(data)[index];
    case DType::kFloat16:
      return static_cast<double>(static_cast<const Half*>(data)[index]);
    case DType::kBFloat16:
      return static_cast<double>(static_cast<const BFloat16*>(data)[index]);
    default:
      return 0;
  }
}

inline void store(DType dtype, void* data, int64_t index, double value) {
  switch (dtype) {
    case DType::kFloat:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      break;
    case DType::kDouble:
      static_cast<double*>(data)[index] = value;
      break;
    case DType::kFloat16:
      static_cast<Half*>(data)[index] = Half::from(value);
      break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(data)[index] = BFloat16::from(value);
      break;
    default:
      break;
  }
}

// What a mask value adds to a score; -infinity means that the key may not be attended.
inline double mask_bias(const Mask& mask, int64_t index) {
  if (mask.dtype != DType::kBool) return load(mask.dtype, mask.data, index);
  return static_cast<const uint8_t*>(mask.data)[index] != 0 ? 0.0 : -std::numeric_limits<double>::infinity();
}

}  // namespace flashonnx::cpu

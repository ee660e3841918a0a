// Four lanes by the compiler's vector extension: SSE2, NEON, or whatever the target has. Interface: simd.h.
#pragma once

#include <cstring>

#include "op/cpu/convert.h"  // compiled for the baseline as this file is, so its inline functions may be shared

namespace flashonnx::cpu::FLASHONNX_ISA {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));  // all bits of a lane set, or none
constexpr int kLanes = 4;
constexpr int kMaxBroadcasts = 6;

inline Vec load(const float* p) {
  Vec a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
inline void store(float* p, Vec a) { std::memcpy(p, &a, sizeof a); }
inline Vec broadcast(float a) { return Vec{a, a, a, a}; }
inline Vec in_register(Vec a) { return a; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }

inline Mask less(Vec a, Vec b) { return a < b; }
inline Mask equal(Vec a, Vec b) { return a == b; }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Vec select(Mask mask, Vec a, Vec b) { return (Vec)((mask & (Mask)a) | (~mask & (Mask)b)); }
inline Vec zero_where(Mask mask, Vec a) { return (Vec)(~mask & (Mask)a); }
inline bool all(Mask mask) { return (mask[0] & mask[1] & mask[2] & mask[3]) != 0; }
inline Vec max(Vec a, Vec b) { return select(less(b, a), a, b); }

inline Vec times_pow2(Vec a, Vec n) {
  typedef uint32_t Bits __attribute__((vector_size(16)));  // wraps where a signed shift may not
  return a * (Vec)((Bits)n << 23);
}

inline void transpose(Vec (&r)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float a = r[i][j];
      r[i][j] = r[j][i];
      r[j][i] = a;
    }
  }
}

inline Vec sum_each(const Vec (&r)[kLanes]) {
  const auto sum = [](Vec a) { return (a[0] + a[2]) + (a[1] + a[3]); };
  return Vec{sum(r[0]), sum(r[1]), sum(r[2]), sum(r[3])};
}

template <int kCount>
inline Vec max_of_groups(Vec a) {
  if constexpr (kCount >= 2) a = max(a, Vec{a[1], a[0], a[3], a[2]});
  if constexpr (kCount >= 4) a = max(a, Vec{a[2], a[3], a[0], a[1]});
  return a;
}

inline Vec load_half(const uint16_t* p) {
  Vec a;
  for (int i = 0; i < kLanes; ++i) a[i] = static_cast<float>(static_cast<double>(Half{p[i]}));
  return a;
}

inline Vec load_bfloat16(const uint16_t* p) {
  Vec a;
  for (int i = 0; i < kLanes; ++i) a[i] = static_cast<float>(static_cast<double>(BFloat16{p[i]}));
  return a;
}

inline Vec load_lower_bfloat16(const void* p) { return load_bfloat16(static_cast<const uint16_t*>(p)); }
inline Vec load_upper_bfloat16(const void* p) { return load_bfloat16(static_cast<const uint16_t*>(p) + kLanes); }

inline void store_half(uint16_t* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = Half::from(a[i]).bits;
}

inline void store_bfloat16(uint16_t* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = BFloat16::from(a[i]).bits;
}

// kLanes bytes of a bool mask: `otherwise` where 0, else 0.
inline Vec load_mask_bytes(const uint8_t* p, float otherwise) {
  Vec a;
  for (int i = 0; i < kLanes; ++i) a[i] = p[i] != 0 ? 0.0f : otherwise;
  return a;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

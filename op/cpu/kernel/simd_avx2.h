// AVX2, FMA and F16C. Interface: simd.h.
#pragma once

#include <immintrin.h>

namespace flashonnx::cpu::avx2 {

using Vec = __m256;
using Mask = __m256;  // all bits of a lane set, or none
constexpr int kLanes = 8;
constexpr int kMaxBroadcasts = 6;  // with two vectors each: 12 sums, 2 rows of B, a broadcast: 15 of 16 registers

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec broadcast(float a) { return _mm256_set1_ps(a); }
inline Vec in_register(Vec a) {
  asm("" : "+x"(a));
  return a;
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }

inline Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Vec select(Mask mask, Vec a, Vec b) { return _mm256_blendv_ps(b, a, mask); }
inline Vec zero_where(Mask mask, Vec a) { return _mm256_andnot_ps(mask, a); }
inline bool all(Mask mask) { return _mm256_movemask_ps(mask) == 0xff; }

inline Vec times_pow2(Vec a, Vec n) { return a * _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(n), 23)); }

inline void transpose(Vec (&r)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  Vec u[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

inline Vec sum_each(const Vec (&r)[kLanes]) {
  Vec t[4];  // of rows 2i, 2i + 1, in turns
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]) + _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  Vec u[2];  // of rows 4i to 4i + 3, in each half
  for (int i = 0; i < 2; ++i) {
    u[i] = _mm256_blend_ps(t[2 * i], t[2 * i + 1], 0xcc) + _mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0x4e);
  }
  return _mm256_blend_ps(u[0], u[1], 0xf0) + _mm256_permute2f128_ps(u[0], u[1], 0x21);
}

template <int kCount>
inline Vec max_of_groups(Vec a) {
  if constexpr (kCount >= 2) a = max(a, _mm256_permute_ps(a, 0xb1));
  if constexpr (kCount >= 4) a = max(a, _mm256_permute_ps(a, 0x4e));
  if constexpr (kCount >= 8) a = max(a, _mm256_permute2f128_ps(a, a, 0x01));
  return a;
}

inline Vec load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline Vec load_bfloat16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

inline Vec load_lower_bfloat16(const void* p) {
  const __m256i values = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), values));
}
inline Vec load_upper_bfloat16(const void* p) {
  const __m256i values = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), values));
}

inline void store_half(uint16_t* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

// Round to nearest, ties to even; a NaN stays one.
inline void store_bfloat16(uint16_t* p, Vec a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i wide = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

// kLanes bytes of a bool mask: `otherwise` where 0, else 0.
inline Vec load_mask_bytes(const uint8_t* p, float otherwise) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m256i zero = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
  return _mm256_and_ps(_mm256_castsi256_ps(zero), _mm256_set1_ps(otherwise));
}

}  // namespace flashonnx::cpu::avx2

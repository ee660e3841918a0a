// AVX-512 F, BW, DQ and VL. Interface: simd.h.
#pragma once

#include <immintrin.h>

namespace flashonnx::cpu::FLASHONNX_ISA {

using Vec = __m512;
using Mask = __mmask16;
constexpr int kLanes = 16;
constexpr int kMaxBroadcasts = 8;  // with two vectors each: 16 sums, enough to hide the latency of two FMA units

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec broadcast(float a) { return _mm512_set1_ps(a); }
inline Vec in_register(Vec a) {
  asm("" : "+v"(a));
  return a;
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }

inline Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Mask both(Mask a, Mask b) { return _kand_mask16(a, b); }
inline Vec select(Mask mask, Vec a, Vec b) { return _mm512_mask_blend_ps(mask, b, a); }
inline Vec zero_where(Mask mask, Vec a) { return _mm512_maskz_mov_ps(_knot_mask16(mask), a); }
inline bool all(Mask mask) { return mask == 0xffff; }

inline Vec times_pow2(Vec a, Vec n) { return a * _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(n), 23)); }

inline void transpose(Vec (&r)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  // Each vector now holds, in its four quarters, columns c, c + 4, c + 8, c + 12 of four rows: sort the quarters.
  for (int c = 0; c < 4; ++c) {
    const Vec low01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    const Vec high01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const Vec low23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const Vec high23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    t[12 + c] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
  for (int i = 0; i < kLanes; ++i) r[i] = t[i];
}

inline Vec sum_each(const Vec (&r)[kLanes]) {
  Vec t[8];  // of rows 2i, 2i + 1, in turns
  for (int i = 0; i < 8; ++i) {
    t[i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]) + _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  Vec u[4];  // of rows 4i to 4i + 3, in each quarter
  for (int i = 0; i < 4; ++i) {
    u[i] = _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44) + _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee);
  }
  for (int i = 0; i < 2; ++i) {  // of rows 8i to 8i + 7, four rows in two quarters
    t[i] = _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0xdd);
  }
  return _mm512_shuffle_f32x4(t[0], t[1], 0x88) + _mm512_shuffle_f32x4(t[0], t[1], 0xdd);
}

template <int kCount>
inline Vec max_of_groups(Vec a) {
  if constexpr (kCount >= 2) a = max(a, _mm512_permute_ps(a, 0xb1));
  if constexpr (kCount >= 4) a = max(a, _mm512_permute_ps(a, 0x4e));
  if constexpr (kCount >= 8) a = max(a, _mm512_shuffle_f32x4(a, a, 0xb1));
  if constexpr (kCount >= 16) a = max(a, _mm512_shuffle_f32x4(a, a, 0x4e));
  return a;
}

inline Vec load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline Vec load_bfloat16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline Vec load_lower_bfloat16(const void* p) {
  return _mm512_castsi512_ps(_mm512_unpacklo_epi16(_mm512_setzero_si512(), _mm512_loadu_si512(p)));
}
inline Vec load_upper_bfloat16(const void* p) {
  return _mm512_castsi512_ps(_mm512_unpackhi_epi16(_mm512_setzero_si512(), _mm512_loadu_si512(p)));
}

inline void store_half(uint16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

// Round to nearest, ties to even; a NaN stays one.
inline void store_bfloat16(uint16_t* p, Vec a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Mask nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

// kLanes bytes of a bool mask: `otherwise` where 0, else 0.
inline Vec load_mask_bytes(const uint8_t* p, float otherwise) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_maskz_mov_ps(_mm512_testn_epi32_mask(wide, wide), _mm512_set1_ps(otherwise));
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

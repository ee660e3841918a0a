// exp and tanh on vectors. Polynomials: minimax for the relative error, found by Remez's exchange.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// Added to x it leaves round(x) + 127, the exponent field of 2^round(x), in the low bits of the sum: 1.5 * 2^23 + 127.
constexpr float kRoundingShift = 12583039.0f;

constexpr float kLog2E = 1.44269504f;

// 2^r for |r| <= 1/2.
inline Vec exp2_fraction(Vec r) {
  Vec p = broadcast(0.000153264715f);
  p = fma(p, r, broadcast(0.00133908063f));
  p = fma(p, r, broadcast(0.00961850584f));
  p = fma(p, r, broadcast(0.0555035993f));
  p = fma(p, r, broadcast(0.240226477f));
  p = fma(p, r, broadcast(0.693147182f));
  return fma(p, r, broadcast(1.0f));
}

// 2^x for x <= 0, within 2 ulp; 0 for x < -126.5, NaN where x is.
inline Vec exp2_nonpositive(Vec x) {
  const Vec shift = broadcast(kRoundingShift);
  const Vec clamped = max(broadcast(-127.0f), x);  // whose power comes out as 0: see times_pow2
  const Vec shifted = clamped + shift;
  return times_pow2(exp2_fraction(clamped + (shift - shifted)), shifted);
}

// Near 0 a polynomial in x^2, so that small results keep their relative accuracy; elsewhere (1 - e) / (1 + e) with
// e = e^(-2|x|).
inline Vec tanh(Vec x) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  const Vec magnitude = select(less(x, zero), zero - x, x);
  const Vec e = exp2_nonpositive(magnitude * broadcast(-2 * kLog2E));
  const Vec far = (one - e) / (one + e);
  const Vec z = x * x;
  Vec p = broadcast(-0.00571704516f);
  p = fma(p, z, broadcast(0.0206505880f));
  p = fma(p, z, broadcast(-0.0537434965f));
  p = fma(p, z, broadcast(0.133314908f));
  p = fma(p, z, broadcast(-0.333332837f));
  const Vec near = fma(p * z, x, x);
  const Vec signed_far = select(less(x, zero), zero - far, far);
  return select(less(magnitude, broadcast(0.625f)), near, signed_far);
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// exp and tanh on vectors. Polynomials: minimax for the relative error, found by Remez's exchange.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

// Added to x it leaves round(x) + 127, the exponent field of 2^round(x), in the low bits of the sum: 1.5 * 2^23 + 127.
constexpr float kRoundingShift = 12583039.0f;

// e^x for x <= 0, within 2 ulp; 0 where the result would be subnormal, NaN where x is.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that r is exact (Cody and Waite 1980, section 6.2).
inline Vec exp_nonpositive(Vec x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kSmallest = -87.3365448f;  // ln 2^-126
  const Vec shift = broadcast(kRoundingShift);
  const Vec shifted = fma(x, broadcast(kLog2E), shift);
  const Vec n = shifted - shift;
  const Vec r = fnma(n, broadcast(kLn2Low), fnma(n, broadcast(kLn2High), x));
  Vec p = broadcast(0.00138145988f);
  p = fma(p, r, broadcast(0.00836871658f));
  p = fma(p, r, broadcast(0.0416683890f));
  p = fma(p, r, broadcast(0.166665211f));
  p = fma(p, r, broadcast(0.499999940f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return zero_where(less(x, broadcast(kSmallest)), times_pow2(p, shifted));
}

// Near 0 a polynomial in x^2, so that small results keep their relative accuracy; elsewhere (1 - e) / (1 + e) with
// e = exp(-2|x|).
inline Vec tanh(Vec x) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f);
  const Vec magnitude = select(less(x, zero), zero - x, x);
  const Vec e = exp_nonpositive(magnitude * broadcast(-2.0f));
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

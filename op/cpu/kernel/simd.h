// Vectors of floats in the instruction set that this file is compiled for (FLASHONNX_ISA names it and its namespace).
//
// Each simd_<isa>.h gives, in namespace flashonnx::cpu::<isa>:
//   Vec, kLanes                        arithmetic by + - * /
//   load, store, broadcast             addresses need no alignment
//   in_register(a) = a                 which the compiler may not load anew at each use
//   fma(a, b, c) = a * b + c,          fnma(a, b, c) = c - a * b
//   max(a, b)                          b where either is NaN
//   Mask, less, equal, both, all       lane by lane; a comparison with NaN is false
//   select(mask, a, b), zero_where(mask, a)
//   times_pow2(a, n)                   a * 2^k, for n = kRoundingShift + k (math.h), k in -126..127; 0 for k = -127;
//                                      NaN where a is
//   transpose(rows)                    of kLanes vectors
//   sum_each(rows)                     lane i: the sum of rows[i]
//   max_of_groups<n>(a)                lane i: the largest of the n lanes side by side, n a power of two, that it is of
//   load_lower_bfloat16, load_upper_bfloat16
//                                      of each eight of 2 * kLanes values side by side, the first four and the last
//   load_half, load_bfloat16, store_half, store_bfloat16, load_mask_bytes
//   kMaxBroadcasts                     of the micro-kernel (panel.h)
#pragma once

#include <cstddef>
#include <cstdint>

#include "op/cpu/kernel/tile.h"

#if defined(FLASHONNX_ISA_AMX)
#define FLASHONNX_ISA amx
#include "op/cpu/kernel/simd_avx512.h"
#elif defined(FLASHONNX_ISA_AVX512_BF16)
#define FLASHONNX_ISA avx512_bf16
#include "op/cpu/kernel/simd_avx512.h"
#elif defined(FLASHONNX_ISA_AVX512)
#define FLASHONNX_ISA avx512
#include "op/cpu/kernel/simd_avx512.h"
#elif defined(FLASHONNX_ISA_AVX2)
#define FLASHONNX_ISA avx2
#include "op/cpu/kernel/simd_avx2.h"
#elif defined(FLASHONNX_ISA_AMX_EMULATED)
#define FLASHONNX_ISA amx_emulated
#include "op/cpu/kernel/simd_generic.h"
#else
#define FLASHONNX_ISA generic
#include "op/cpu/kernel/simd_generic.h"
#endif

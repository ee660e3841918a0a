// The micro-kernel of bfloat16: C = A B, where rows of A lie as a tensor's do and B holds pairs of its rows side by
// side, (depth / 2, kPanelRows, 2). Lanes are query rows, as in panel.h.
//
//   PairMultiplier::multiply(a, a_stride, rows, b, depth, c)   c: (rows, kPanelRows) floats
//   kRowStep, kDepthStep   rows and depth are rounded up to them: what lies there is read of A and B, and written of C
//   store_pairs(p, even, odd)     a row of B: kLanes pairs, rounded from floats to nearest, ties to even
//   load_pairs(even, odd)         kLanes values of two rows as pairs, only to be moved
#pragma once

#if defined(FLASHONNX_ISA_AMX) || defined(FLASHONNX_ISA_AVX512_BF16)
#include "op/cpu/kernel/pairs_avx512_bf16.h"
#else
#include "op/cpu/kernel/pairs_generic.h"
#endif

#if defined(FLASHONNX_ISA_AVX512_BF16)
#include "op/cpu/kernel/multiply_pairs_dot.h"
#else
#include "op/cpu/kernel/multiply_pairs_tiles.h"
#endif

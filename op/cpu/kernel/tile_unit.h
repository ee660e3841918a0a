// Eight registers of small matrices ("tiles") and their product: Intel AMX, or the same in plain C++.
//
// Registers: 0 to 3 hold sums, kTileRows x kLanes floats; 4 and 5 hold bfloat16 A, kTileRows rows of kTilePairs pairs;
// 6 and 7 hold bfloat16 B, kTilePairs rows of kLanes pairs. Source: Intel SDM volume 2, TILELOADD and TDPBF16PS.
#pragma once

#include "op/cpu/kernel/simd.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

constexpr int kTileRows = 16;
constexpr int kTilePairs = 16;
constexpr int kTileDepth = 2 * kTilePairs;  // values of a row of A

}  // namespace flashonnx::cpu::FLASHONNX_ISA

#if defined(FLASHONNX_ISA_AMX)
#include "op/cpu/kernel/tile_unit_amx.h"
#else
#include "op/cpu/kernel/tile_unit_emulated.h"
#endif

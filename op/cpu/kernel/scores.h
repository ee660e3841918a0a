// What both kernels do to scores, whichever way their lanes run.
#pragma once

#include "op/cpu/kernel/block.h"
#include "op/cpu/kernel/math.h"

namespace flashonnx::cpu::FLASHONNX_ISA {

inline void scale_scores(float scale, int64_t count, float* scores) {
  for (int64_t i = 0; i < count; i += kLanes) store(scores + i, load(scores + i) * broadcast(scale));
}

inline void apply_softcap(float softcap, int64_t count, float* scores) {
  const Vec cap = broadcast(softcap), inverse = broadcast(1 / softcap);
  for (int64_t i = 0; i < count; i += kLanes) store(scores + i, cap * tanh(load(scores + i) * inverse));
}

// scale * score + bias; a bias of -infinity forbids a key even where the score is NaN or +infinity.
inline Vec masked(Vec score, Vec bias, float scale = 1) {
  const Vec never = broadcast(kNever);
  return select(equal(bias, never), never, fma(score, broadcast(scale), bias));
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// Attention by its definition, a row of scores at a time, in double: what every other kernel is held against.
#pragma once

#include "op/core/parallel.h"
#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::cpu {

// Writes Y, lse and qk_matmul_output, not the caches. Scratch: one row of total_sequence_length doubles a thread.
Status run_naive(const Problem& problem, const Parallel& parallel);

}  // namespace flashonnx::cpu

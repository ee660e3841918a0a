// mean_without_keys: rows of Y without any allowed key become the mean of V.
#pragma once

#include "op/core/parallel.h"
#include "op/core/problem.h"

namespace flashonnx::cpu {

// Y and lse are written; such rows are those whose lse is -infinity.
void write_mean_rows(const Problem& problem, const Parallel& parallel);

}  // namespace flashonnx::cpu

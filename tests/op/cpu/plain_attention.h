// Attention as one would first write it in float: the error of this is what a kernel's error is measured by.
#pragma once

#include "op/core/problem.h"

namespace flashonnx::testing {

// Fills Y and lse: sums in float in the order of the keys, the result rounded to the problem's dtype.
void run_plain_attention(const Problem& problem);

}  // namespace flashonnx::testing

// K and V with each head's rows side by side.
//
// In (batch, row, heads * head_size) tensors the rows of one head are spread over more pages than a TLB holds, and
// powers of two between them crowd them into a few sets of the caches. Where many tiles read them, they are copied
// once.
#pragma once

#include "op/core/parallel.h"
#include "op/core/problem.h"

namespace flashonnx::cpu {

// Bytes of the copies; 0 if they would not pay.
int64_t packed_bytes(const Problem& problem);

// The problem with K and V in `memory`, which holds packed_bytes(problem).
Problem pack_keys(const Problem& problem, void* memory, const Parallel& parallel);

}  // namespace flashonnx::cpu

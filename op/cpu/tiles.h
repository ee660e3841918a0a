// A problem cut into tiles, the tiles run, split keys merged.
#pragma once

#include "op/core/parallel.h"
#include "op/core/problem.h"
#include "op/core/status.h"
#include "op/cpu/flash_attention.h"

namespace flashonnx::cpu {

// Bytes for the partial results of `splits` parts; 0 if there is one.
int64_t partial_bytes(const Problem& problem, int64_t splits);

// Writes Y and lse, not the caches. Scratch of a tile a thread.
Status run_tiles(const Problem& problem, const Plan& plan, void* workspace, const Parallel& parallel);

}  // namespace flashonnx::cpu

// Descriptors by which the copy engine (TMA) reads Q, K and V.
#pragma once

#include <cuda.h>

#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::cuda {

// Boxes of `box_rows` rows by 64 columns of 16-bit elements of a (batch, head, row, column) view, laid out in shared
// memory with the 128-byte swizzle that wgmma reads. The view must satisfy copy_engine_reads.
Status make_tensor_map(const Input& view, DType dtype, int64_t batches, int64_t heads, int64_t rows, int64_t columns,
                       int box_rows, CUtensorMap* map);

}  // namespace flashonnx::cuda

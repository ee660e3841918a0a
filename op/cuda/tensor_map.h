// Descriptors by which the copy engine (TMA) reads Q, K, V and attn_mask.
#pragma once

#include <cuda.h>

#include "op/core/problem.h"
#include "op/core/status.h"
#include "op/cuda/tiles.h"

namespace flashonnx::cuda {

constexpr int64_t kBoxRowBytes = 128;

// Boxes of `box_rows` rows by kBoxRowBytes of a (batch, head, row, column) view, laid out in shared memory with the
// 128-byte swizzle that wgmma reads. The view must satisfy copy_engine_reads.
Status make_tensor_map(const Input& view, DType dtype, const TensorSizes& sizes, int box_rows, CUtensorMap* map);

}  // namespace flashonnx::cuda

// The kernels' launches, one function a kernel, and the sizes that each is built for.
#pragma once

#include <cuda_runtime.h>

#include "op/core/problem.h"
#include "op/core/status.h"
#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {

// What the launch of a tiled kernel is given beside the problem.
struct LaunchContext {
  const Plan& plan;
  void* scratch;  // the kernel's part of the workspace: sm90_scratch_bytes or split_scratch_bytes
  cudaStream_t stream;
};

int64_t naive_shared_bytes(const Problem& problem);
Status run_naive(const Problem& problem, cudaStream_t stream);

// Writes past rows, then new rows, to `key` and `value`.
Status run_append(const Problem& problem, const Output& key, const Output& value, cudaStream_t stream);

// Writes attn_mask to `data`, laid out as Workspace::aligned_mask is.
Status run_copy_mask(const Problem& problem, void* data, cudaStream_t stream);

// Makes rows of Y whose lse is -infinity the mean of V.
Status run_mean_rows(const Problem& problem, cudaStream_t stream);

// Instantiated for the element types and head sizes of tiles.h, one file each, in the build folder.
template <typename Element, int kHeadSize>
Status run_sm80(const Problem& problem, const LaunchContext& context);
template <typename Element, int kHeadSize>
Status run_split(const Problem& problem, const LaunchContext& context);
template <typename Element, int kHeadSize, int kVHeadSize>
Status run_sm90(const Problem& problem, const LaunchContext& context);

}  // namespace flashonnx::cuda

// The launch entry: joins past and new keys where there is a past, aligns attn_mask where the kernel needs it, runs the
// plan's kernel, and sees to rows without any key.
#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"
#include "op/cuda/tiles.h"
#include "op/cuda/workspace.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace flashonnx::cuda {
namespace {

// The problem as kernels read it: K and V of all keys in one place.
Status join_keys(const Problem& problem, const Workspace& layout, char* workspace, cudaStream_t stream,
                 Problem* joined) {
  *joined = problem;
  if (!layout.appends) return {};
  Output key = layout.present_key;
  Output value = layout.present_value;
  if (!key) key.data = workspace + layout.key;
  if (!value) value.data = workspace + layout.value;
  if (problem.past_key) {
    joined->k = {key.data, key.batch_stride, key.head_stride, key.row_stride};
    joined->v = {value.data, value.batch_stride, value.head_stride, value.row_stride};
  }
  return run_append(problem, key, value, stream);
}

// attn_mask where the kernel can read it.
Status align_mask(const Workspace& layout, char* workspace, cudaStream_t stream, Problem* problem) {
  if (!layout.copies_mask) return {};
  void* const data = workspace + layout.mask;
  const Status copied = run_copy_mask(*problem, data, stream);
  problem->mask = layout.aligned_mask;
  problem->mask.data = data;
  return copied;
}

Status run_float(const Problem& problem, const LaunchContext& context) {
  if (context.plan.kernel == Kernel::kSplit) {
    return split_head_size(problem) == 64 ? run_split<float, 64>(problem, context)
                                          : run_split<float, 128>(problem, context);
  }
  switch (sm80_head_size(problem)) {
    case 64:
      return run_sm80<float, 64>(problem, context);
    case 128:
      return run_sm80<float, 128>(problem, context);
    default:
      return run_sm80<float, 256>(problem, context);
  }
}

template <typename Element>
Status run_sm80_sized(const Problem& problem, const LaunchContext& context) {
  switch (sm80_head_size(problem)) {
    case 64:
      return run_sm80<Element, 64>(problem, context);
    case 96:
      return run_sm80<Element, 96>(problem, context);
    case 128:
      return run_sm80<Element, 128>(problem, context);
    case 192:
      return run_sm80<Element, 192>(problem, context);
    default:
      return run_sm80<Element, 256>(problem, context);
  }
}

template <typename Element>
Status run_split_sized(const Problem& problem, const LaunchContext& context) {
  switch (split_head_size(problem)) {
    case 64:
      return run_split<Element, 64>(problem, context);
    case 128:
      return run_split<Element, 128>(problem, context);
    default:
      return run_split<Element, 256>(problem, context);
  }
}

template <typename Element>
Status run_sm90_sized(const Problem& problem, const LaunchContext& context) {
  const HeadSizes sizes = *sm90_head_sizes(problem);
  switch (sizes.head_size) {
    case 64:
      return run_sm90<Element, 64, 64>(problem, context);
    case 96:
      return run_sm90<Element, 96, 96>(problem, context);
    case 128:
      return run_sm90<Element, 128, 128>(problem, context);
    case 192:
      return sizes.v_head_size == 128 ? run_sm90<Element, 192, 128>(problem, context)
                                      : run_sm90<Element, 192, 192>(problem, context);
    default:
      return run_sm90<Element, 256, 256>(problem, context);
  }
}

template <typename Element>
Status run_tiled(const Problem& problem, const LaunchContext& context) {
  if (context.plan.kernel == Kernel::kSm90) return run_sm90_sized<Element>(problem, context);
  if (context.plan.kernel == Kernel::kSplit) return run_split_sized<Element>(problem, context);
  return run_sm80_sized<Element>(problem, context);
}

Status run_kernel(const Problem& problem, const LaunchContext& context) {
  if (context.plan.kernel == Kernel::kNaive) return run_naive(problem, context.stream);
  switch (problem.dtype) {
    case DType::kFloat:
      return run_float(problem, context);
    case DType::kFloat16:
      return run_tiled<__half>(problem, context);
    default:
      return run_tiled<__nv_bfloat16>(problem, context);
  }
}

}  // namespace

Status run(const Problem& problem, const Plan& plan, void* workspace_memory, void* stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  auto* const memory = static_cast<char*>(workspace_memory);
  const Workspace layout = workspace(problem, plan);
  Problem joined;
  const Status keys = join_keys(problem, layout, memory, stream, &joined);
  if (!keys.ok()) return keys;
  if (joined.batch_size * joined.q_num_heads * joined.q_sequence_length == 0) return {};
  const Status mask = align_mask(layout, memory, stream, &joined);
  if (!mask.ok()) return mask;
  if (layout.keeps_lse) joined.lse = reinterpret_cast<float*>(memory + layout.lse);
  const Status attended = run_kernel(joined, {plan, memory + layout.scratch, stream});
  if (!attended.ok() || !problem.mean_without_keys) return attended;
  return run_mean_rows(joined, stream);
}

}  // namespace flashonnx::cuda

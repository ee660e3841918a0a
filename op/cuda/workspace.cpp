#include "op/cuda/workspace.h"

#include "op/cuda/tiles.h"

namespace flashonnx::cuda {
namespace {

constexpr int64_t kAlignment = 256;

// Takes `size` bytes off the end of the block, and says where they start.
int64_t take(int64_t size, int64_t* end) {
  const int64_t start = *end;
  *end += (size + kAlignment - 1) / kAlignment * kAlignment;
  return start;
}

int64_t scratch_bytes(const Problem& problem, const Plan& plan) {
  if (plan.draws_tiles) return sizeof(int);
  if (plan.kernel != Kernel::kSplit || plan.splits == 1) return 0;
  const int64_t rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  return plan.splits * rows * partial_row_bytes(problem);
}

Output contiguous(const Problem& problem, int64_t columns) {
  Output view;
  view.row_stride = columns;
  view.head_stride = problem.total_sequence_length() * columns;
  view.batch_stride = problem.kv_num_heads * view.head_stride;
  return view;
}

int64_t aligned_mask_bytes(const Problem& problem) {
  const TensorSizes sizes = mask_sizes(problem);
  const int64_t rows = sizes.batches * sizes.heads * sizes.rows;
  return rows * aligned_mask_columns(problem) * size_of(problem.mask.dtype);
}

Mask aligned_mask(const Problem& problem) {
  const TensorSizes sizes = mask_sizes(problem);
  const int64_t columns = aligned_mask_columns(problem);
  Mask mask = problem.mask;
  mask.data = nullptr;
  mask.key_stride = 1;
  if (mask.row_stride != 0) mask.row_stride = columns;
  if (mask.head_stride != 0) mask.head_stride = sizes.rows * columns;
  if (mask.batch_stride != 0) mask.batch_stride = sizes.heads * sizes.rows * columns;
  return mask;
}

Input as_input(const Output& view) { return {view.data, view.batch_stride, view.head_stride, view.row_stride}; }

}  // namespace

int64_t aligned_mask_columns(const Problem& problem) {
  const int64_t per_16_bytes = 16 / size_of(problem.mask.dtype);
  return (problem.mask.length + per_16_bytes - 1) / per_16_bytes * per_16_bytes;
}

int64_t partial_row_bytes(const Problem& problem) {
  constexpr int64_t kStatistics = 2;
  return (split_partial_columns(problem) + kStatistics) * static_cast<int64_t>(sizeof(float));
}

Workspace workspace(const Problem& problem, const Plan& plan) {
  Workspace result;
  result.scratch = take(scratch_bytes(problem, plan), &result.bytes);
  result.copies_mask = plan.kernel == Kernel::kSm90 && problem.mask && !copy_engine_reads_mask(problem);
  if (result.copies_mask) {
    result.aligned_mask = aligned_mask(problem);
    result.mask = take(aligned_mask_bytes(problem), &result.bytes);
  }
  result.keeps_lse = problem.mean_without_keys && problem.lse == nullptr;
  if (result.keeps_lse) {
    const int64_t rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
    result.lse = take(rows * static_cast<int64_t>(sizeof(float)), &result.bytes);
  }
  result.appends = problem.past_key || problem.present_key;
  result.k = problem.k;
  result.v = problem.v;
  if (!result.appends) return result;

  result.present_key = problem.present_key;
  result.present_value = problem.present_value;
  if (!result.present_key) {
    const int64_t rows = problem.batch_size * problem.kv_num_heads * problem.total_sequence_length();
    result.present_key = contiguous(problem, problem.head_size);
    result.present_value = contiguous(problem, problem.v_head_size);
    result.key = take(rows * problem.head_size * size_of(problem.dtype), &result.bytes);
    result.value = take(rows * problem.v_head_size * size_of(problem.dtype), &result.bytes);
  }
  if (problem.past_key) {
    result.k = as_input(result.present_key);
    result.v = as_input(result.present_value);
  }
  return result;
}

}  // namespace flashonnx::cuda

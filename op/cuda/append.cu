// present_key and present_value: the past's rows, then the new ones. Tiled kernels then read K and V from there, so
// each row is copied once.
#include "op/cuda/kernels.h"
#include "op/cuda/launch.h"

namespace flashonnx::cuda {
namespace {

struct RowCopy {
  Input past, fresh;
  Output target;
  int64_t past_rows, rows;  // rows: past and new
  int64_t all_rows;         // of every head and batch entry
  int heads;
  int units;  // of a row
};

// Strides in units of `Unit`; one warp a row.
template <typename Unit>
__global__ void __launch_bounds__(128) append_rows(const __grid_constant__ RowCopy copy) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 4 + threadIdx.x / 32;
  if (index >= copy.all_rows) return;
  const int64_t row = index % copy.rows;
  const int64_t head = index / copy.rows % copy.heads;
  const int64_t batch = index / copy.rows / copy.heads;
  const bool from_past = row < copy.past_rows;
  const Input& source = from_past ? copy.past : copy.fresh;
  const int64_t source_row = from_past ? row : row - copy.past_rows;
  const auto* from = static_cast<const Unit*>(source.data) + batch * source.batch_stride + head * source.head_stride +
                     source_row * source.row_stride;
  auto* to = static_cast<Unit*>(copy.target.data) + batch * copy.target.batch_stride + head * copy.target.head_stride +
             row * copy.target.row_stride;
  for (int unit = threadIdx.x % 32; unit < copy.units; unit += 32) to[unit] = from[unit];
}

template <typename View>
void in_units(View& view, int64_t elements_per_unit) {
  view.batch_stride /= elements_per_unit;
  view.head_stride /= elements_per_unit;
  view.row_stride /= elements_per_unit;
}

template <typename View>
bool aligned(const View& view, int64_t elements) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
         (view.batch_stride | view.head_stride | view.row_stride) % elements == 0;
}

template <typename Unit>
Status launch_copy(const RowCopy& copy, cudaStream_t stream) {
  return launch(append_rows<Unit>, {(copy.all_rows + 3) / 4, 128}, stream, copy);
}

Status append_one(const Problem& problem, const Input& past, const Input& fresh, const Output& target, int64_t columns,
                  cudaStream_t stream) {
  RowCopy copy{past,
               fresh,
               target,
               problem.past_sequence_length,
               problem.total_sequence_length(),
               problem.batch_size * problem.kv_num_heads * problem.total_sequence_length(),
               static_cast<int>(problem.kv_num_heads),
               static_cast<int>(columns)};
  const int64_t size = size_of(problem.dtype);
  const int64_t wide = 16 / size;
  const bool vectors =
      columns % wide == 0 && (!past || aligned(past, wide)) && aligned(fresh, wide) && aligned(target, wide);
  if (vectors) {
    in_units(copy.past, wide);
    in_units(copy.fresh, wide);
    in_units(copy.target, wide);
    copy.units = static_cast<int>(columns / wide);
    return launch_copy<uint4>(copy, stream);
  }
  if (size == 2) return launch_copy<uint16_t>(copy, stream);
  if (size == 4) return launch_copy<uint32_t>(copy, stream);
  return launch_copy<uint64_t>(copy, stream);
}

}  // namespace

Status run_append(const Problem& problem, const Output& key, const Output& value, cudaStream_t stream) {
  Status status = append_one(problem, problem.past_key, problem.k, key, problem.head_size, stream);
  if (!status.ok()) return status;
  return append_one(problem, problem.past_value, problem.v, value, problem.v_head_size, stream);
}

}  // namespace flashonnx::cuda

// A checked node as a Problem: strides, broadcasts and data.
#include "op/core/problem.h"

#include <cmath>
#include <string>

#include "op/core/check.h"

namespace flashonnx {
namespace {

using contract::kInputs;
using contract::kOutputs;
using contract::Size;

// Far beyond any memory, and small enough that no offset in bytes overflows.
constexpr int64_t kMaxElements = int64_t{1} << 59;

const TensorDesc& desc(const Node& node, int input) { return *node.inputs[static_cast<size_t>(input)]; }

// Empty dimensions count as one: strides are products of the others.
Status check_elements(const Subject& what, const Shape& shape) {
  int64_t elements = 1;
  for (const int64_t dim : shape) {
    if (dim < 0) {
      return Status::error(to_string(what) + " has shape " + to_string(shape) + "; every dimension must be known");
    }
    if (dim > 1 && elements > kMaxElements / dim) {
      return Status::error(to_string(what) + " has shape " + to_string(shape) + "; allowed: at most 2^59 elements");
    }
    elements *= dim > 1 ? dim : 1;
  }
  return {};
}

Status check_known(const Node& node, const Sizes& sizes) {
  for (int i = 0; i < contract::kNumInputs; ++i) {
    if (!node.inputs[static_cast<size_t>(i)]) continue;
    const TensorDesc& tensor = desc(node, i);
    const Subject what = {"input", kInputs[i].name};
    if (tensor.dtype == DType::kUndefined) return Status::error(to_string(what) + " has no known element type");
    if (!tensor.has_shape) return Status::error(to_string(what) + " has no known shape");
    Status status = check_elements(what, tensor.dims);
    if (!status.ok()) return status;
  }
  for (int i = 0; i < contract::kNumOutputs; ++i) {
    if (!node.outputs[static_cast<size_t>(i)]) continue;
    Status status = check_elements({"output", kOutputs[i].name}, infer_output(node, sizes, i).dims);
    if (!status.ok()) return status;
  }
  return {};
}

void set_sizes(const Sizes& sizes, Problem* problem) {
  problem->batch_size = sizes.get(Size::kBatchSize);
  problem->q_num_heads = sizes.get(Size::kQNumHeads);
  problem->kv_num_heads = sizes.get(Size::kKvNumHeads);
  problem->q_sequence_length = sizes.get(Size::kQSequenceLength);
  problem->kv_sequence_length = sizes.get(Size::kKvSequenceLength);
  problem->past_sequence_length = sizes.get(Size::kPastSequenceLength);
  problem->head_size = sizes.get(Size::kHeadSize);
  problem->v_head_size = sizes.get(Size::kVHeadSize);
}

void set_attributes(const Attributes& attributes, Problem* problem) {
  problem->scale = attributes.scale.value_or(1.0 / std::sqrt(static_cast<double>(problem->head_size)));
  problem->softcap = attributes.softcap;
  problem->is_causal = attributes.is_causal != 0;
  problem->left_window_size = attributes.left_window_size;
  problem->right_window_size = attributes.right_window_size;
  problem->qk_matmul_output_mode = static_cast<QkOutput>(attributes.qk_matmul_output_mode);
  problem->mean_without_keys = attributes.mean_without_keys != 0;
}

// Strides of a contiguous (batch, heads, rows, columns) tensor, or of (batch, rows, heads * columns) at rank 3.
template <typename AnyView>
void set_strides(size_t rank, int64_t heads, int64_t rows, int64_t columns, AnyView* view) {
  const bool rows_first = rank == 3;
  view->batch_stride = heads * rows * columns;
  view->head_stride = rows_first ? columns : rows * columns;
  view->row_stride = rows_first ? heads * columns : columns;
}

void set_views(size_t rank, Problem* problem) {
  Problem& p = *problem;
  set_strides(rank, p.q_num_heads, p.q_sequence_length, p.head_size, &p.q);
  set_strides(rank, p.kv_num_heads, p.kv_sequence_length, p.head_size, &p.k);
  set_strides(rank, p.kv_num_heads, p.kv_sequence_length, p.v_head_size, &p.v);
  set_strides(rank, p.q_num_heads, p.q_sequence_length, p.v_head_size, &p.y);
  set_strides(4, p.kv_num_heads, p.past_sequence_length, p.head_size, &p.past_key);
  set_strides(4, p.kv_num_heads, p.past_sequence_length, p.v_head_size, &p.past_value);
  set_strides(4, p.kv_num_heads, p.total_sequence_length(), p.head_size, &p.present_key);
  set_strides(4, p.kv_num_heads, p.total_sequence_length(), p.v_head_size, &p.present_value);
}

// Aligned at the end, as in NumPy; a dimension of 1 gets stride 0.
void set_mask(const TensorDesc& tensor, Problem* problem) {
  int64_t strides[4] = {0, 0, 0, 0};
  int64_t stride = 1;
  const size_t skipped = 4 - tensor.dims.size();
  for (size_t i = tensor.dims.size(); i-- > 0;) {
    strides[skipped + i] = tensor.dims[i] == 1 ? 0 : stride;
    stride *= tensor.dims[i];
  }
  const int64_t total = problem->total_sequence_length();
  Mask& mask = problem->mask;
  mask.dtype = tensor.dtype;
  mask.batch_stride = strides[0];
  mask.head_stride = strides[1];
  mask.row_stride = strides[2];
  mask.key_stride = strides[3];
  mask.length = tensor.dims.back() == 1 ? total : tensor.dims.back();
}

}  // namespace

Status make_problem(const Node& node, Problem* problem) {
  Sizes sizes;
  Status status = check_node(node, &sizes);
  if (status.ok()) status = check_known(node, sizes);
  if (!status.ok()) return status;
  *problem = Problem();
  problem->dtype = desc(node, contract::Input::kQ).dtype;
  set_sizes(sizes, problem);
  set_attributes(node.attributes, problem);
  set_views(desc(node, contract::Input::kQ).dims.size(), problem);
  if (node.inputs[contract::Input::kAttnMask]) set_mask(desc(node, contract::Input::kAttnMask), problem);
  const auto& alibi = node.inputs[contract::Input::kAlibiSlopes];
  if (alibi && alibi->dims.size() == 2) problem->alibi_batch_stride = problem->q_num_heads;
  return {};
}

void set_data(const TensorData& data, Problem* problem) {
  problem->q.data = data.inputs[contract::Input::kQ];
  problem->k.data = data.inputs[contract::Input::kK];
  problem->v.data = data.inputs[contract::Input::kV];
  problem->mask.data = data.inputs[contract::Input::kAttnMask];
  problem->past_key.data = data.inputs[contract::Input::kPastKey];
  problem->past_value.data = data.inputs[contract::Input::kPastValue];
  problem->nonpad_kv_seqlen = static_cast<const int64_t*>(data.inputs[contract::Input::kNonpadKvSeqlen]);
  problem->sinks = static_cast<const float*>(data.inputs[contract::Input::kSinks]);
  problem->alibi_slopes = static_cast<const float*>(data.inputs[contract::Input::kAlibiSlopes]);
  problem->y.data = data.outputs[contract::Output::kY];
  problem->present_key.data = data.outputs[contract::Output::kPresentKey];
  problem->present_value.data = data.outputs[contract::Output::kPresentValue];
  problem->qk_matmul_output = data.outputs[contract::Output::kQkMatmulOutput];
  problem->lse = static_cast<float*>(data.outputs[contract::Output::kLse]);
}

Shape output_dims(const Problem& problem, int index, int q_rank) {
  Sizes sizes;
  // A Problem's sizes were checked when it was made, so none of these can fail.
  const auto set = [&sizes](int size, int64_t value) { (void)sizes.set(size, value, {}); };
  set(Size::kBatchSize, problem.batch_size);
  set(Size::kQNumHeads, problem.q_num_heads);
  set(Size::kKvNumHeads, problem.kv_num_heads);
  set(Size::kQSequenceLength, problem.q_sequence_length);
  set(Size::kKvSequenceLength, problem.kv_sequence_length);
  set(Size::kPastSequenceLength, problem.past_sequence_length);
  set(Size::kHeadSize, problem.head_size);
  set(Size::kVHeadSize, problem.v_head_size);
  const contract::TensorRule& rule = kOutputs[index];
  const bool second = rule.num_shapes > 1 && rule.shapes[0].rank != q_rank;
  return sizes.shape(rule.shapes[second ? 1 : 0]);
}

Status check_values(const Problem& problem) {
  if (problem.nonpad_kv_seqlen == nullptr) return {};
  for (int64_t b = 0; b < problem.batch_size; ++b) {
    const int64_t length = problem.nonpad_kv_seqlen[b];
    if (length >= 0 && length <= problem.kv_sequence_length) continue;
    return Status::error(std::string("input '") + kInputs[contract::Input::kNonpadKvSeqlen].name + "' is " +
                         std::to_string(length) + " at index " + std::to_string(b) +
                         "; allowed: 0 to kv_sequence_length (" + std::to_string(problem.kv_sequence_length) + ")");
  }
  return {};
}

}  // namespace flashonnx

#include "op/capi/node.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

namespace flashonnx::capi {
namespace {

using contract::Input;
using contract::kInputs;
using contract::kOutputs;
using contract::Output;

constexpr int kUnknownRank = -1;
constexpr int kMaxRank = 4;

const flashonnx_tensor* tensor_at(const flashonnx_tensor* const* tensors, int count, int index) {
  return tensors != nullptr && index < count ? tensors[index] : nullptr;
}

const flashonnx_tensor* input(const flashonnx_node& node, int index) {
  return tensor_at(node.inputs, node.num_inputs, index);
}

const flashonnx_tensor* output(const flashonnx_node& node, int index) {
  return tensor_at(node.outputs, node.num_outputs, index);
}

std::string input_name(int index) { return std::string("input '") + kInputs[index].name + "'"; }
std::string output_name(int index) { return std::string("output '") + kOutputs[index].name + "'"; }

Status read_desc(const flashonnx_tensor& tensor, const std::string& name, TensorDesc* desc) {
  if (tensor.rank < kUnknownRank || (tensor.rank > 0 && tensor.dims == nullptr)) {
    return Status::error(name + " has rank " + std::to_string(tensor.rank) + "; allowed: 0 and up, with dimensions");
  }
  desc->has_shape = tensor.rank != kUnknownRank;
  desc->dtype = static_cast<DType>(tensor.dtype);
  if (desc->has_shape) desc->dims.assign(tensor.dims, tensor.dims + tensor.rank);
  return {};
}

template <typename Member>
Status set_attribute(const char* name, double value, Member& member) {
  if constexpr (std::is_same_v<Member, int64_t> || std::is_same_v<Member, std::optional<int64_t>>) {
    constexpr double kBeyond = 9223372036854775808.0;  // 2^63, which is also what the largest int64 is as a double
    if (!(std::abs(value) <= kBeyond) || value != std::floor(value)) {
      return Status::error(std::string("attribute '") + name + "' is " + std::to_string(value) +
                           "; allowed: an integer of 64 bits");
    }
    member = value < kBeyond ? static_cast<int64_t>(value) : std::numeric_limits<int64_t>::max();
  } else {
    member = value;
  }
  return {};
}

Status read_attribute(const flashonnx_attribute& attribute, Attributes* attributes) {
  if (attribute.name == nullptr) return Status::error("an attribute has no name");
  bool found = false;
  Status status;
  for_each_attribute(*attributes, [&](int index, auto& member) {
    const char* name = contract::kAttributes[index].name;
    if (std::strcmp(name, attribute.name) != 0) return;
    found = true;
    status = set_attribute(name, attribute.value, member);
  });
  if (!found) return Status::error(std::string("attribute '") + attribute.name + "' is unknown");
  return status;
}

std::string shape_text(const flashonnx_tensor& tensor) {
  return to_string(Shape(tensor.dims, tensor.dims + tensor.rank));
}

bool is_empty(const flashonnx_tensor& tensor) {
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.dims[i] == 0) return true;
  }
  return false;
}

Status check_data(const flashonnx_tensor& tensor, const std::string& name) {
  if (tensor.data == nullptr && !is_empty(tensor)) return Status::error(name + " has no data");
  return {};
}

bool is_contiguous(const flashonnx_tensor& tensor) {
  if (tensor.strides == nullptr) return true;
  int64_t expected = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    if (tensor.dims[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.dims[i];
  }
  return true;
}

Status check_output(const flashonnx_tensor& tensor, const Problem& problem, int index, int q_rank) {
  const std::string name = output_name(index);
  TensorDesc desc;
  Status status = read_desc(tensor, name, &desc);
  if (status.ok()) status = check_data(tensor, name);
  if (!status.ok()) return status;
  const Shape expected = output_dims(problem, index, q_rank);
  if (desc.dims != expected) {
    return Status::error(name + " has shape " + to_string(desc.dims) + "; allowed: " + to_string(expected));
  }
  const DType dtype = index == Output::kLse ? DType::kFloat : problem.dtype;
  if (desc.dtype != dtype) {
    return Status::error(name + " has element type " + std::to_string(tensor.dtype) +
                         "; allowed: " + std::to_string(static_cast<int32_t>(dtype)));
  }
  return {};
}

Status check_tensors(const flashonnx_node& from, const Problem& problem) {
  for (int i = 0; i < contract::kNumInputs; ++i) {
    const flashonnx_tensor* tensor = input(from, i);
    Status status = tensor != nullptr ? check_data(*tensor, input_name(i)) : Status();
    if (!status.ok()) return status;
  }
  if (output(from, Output::kY) == nullptr) return Status::error(output_name(Output::kY) + " is missing");
  for (int i = 0; i < contract::kNumOutputs; ++i) {
    const flashonnx_tensor* tensor = output(from, i);
    Status status = tensor != nullptr ? check_output(*tensor, problem, i, input(from, Input::kQ)->rank) : Status();
    if (!status.ok()) return status;
  }
  return {};
}

Status wrong_strides(const flashonnx_tensor& tensor, const std::string& name, const std::string& allowed) {
  return Status::error(name + " has strides " + to_string(Shape(tensor.strides, tensor.strides + tensor.rank)) +
                       " and shape " + shape_text(tensor) + "; allowed: " + allowed);
}

// The view's strides from a (batch, head, row, column) tensor, or a (batch, row, head * column) one.
template <typename AnyView>
Status read_strides(const flashonnx_tensor* tensor, const std::string& name, int64_t columns, AnyView* view) {
  if (tensor == nullptr || tensor->strides == nullptr) return {};
  const int64_t* strides = tensor->strides;
  const int last = tensor->rank - 1;
  if (tensor->dims[last] > 1 && strides[last] != 1) return wrong_strides(*tensor, name, "1 in the last dimension");
  view->batch_stride = strides[0];
  view->head_stride = tensor->rank == 4 ? strides[1] : columns;
  view->row_stride = strides[last - 1];
  return {};
}

Status read_mask_strides(const flashonnx_tensor* tensor, Mask* mask) {
  if (tensor == nullptr || tensor->strides == nullptr) return {};
  int64_t strides[kMaxRank] = {};
  for (int i = 0; i < tensor->rank; ++i) {
    strides[kMaxRank - tensor->rank + i] = tensor->dims[i] == 1 ? 0 : tensor->strides[i];
  }
  if (strides[3] != 0 && strides[3] != 1) {
    return wrong_strides(*tensor, input_name(Input::kAttnMask), "0 or 1 in the last dimension");
  }
  mask->batch_stride = strides[0];
  mask->head_stride = strides[1];
  mask->row_stride = strides[2];
  mask->key_stride = strides[3];
  return {};
}

Status check_contiguous(const flashonnx_tensor* tensor, const std::string& name) {
  if (tensor == nullptr || is_contiguous(*tensor)) return {};
  return wrong_strides(*tensor, name, "those of a contiguous tensor");
}

Status read_all_strides(const flashonnx_node& from, Problem* p) {
  Status status;
  const auto read_input = [&](int i, int64_t columns, ::flashonnx::Input* view) {
    if (status.ok()) status = read_strides(input(from, i), input_name(i), columns, view);
  };
  const auto read_output = [&](int i, int64_t columns, ::flashonnx::Output* view) {
    if (status.ok()) status = read_strides(output(from, i), output_name(i), columns, view);
  };
  read_input(Input::kQ, p->head_size, &p->q);
  read_input(Input::kK, p->head_size, &p->k);
  read_input(Input::kV, p->v_head_size, &p->v);
  read_input(Input::kPastKey, p->head_size, &p->past_key);
  read_input(Input::kPastValue, p->v_head_size, &p->past_value);
  read_output(Output::kY, p->v_head_size, &p->y);
  read_output(Output::kPresentKey, p->head_size, &p->present_key);
  read_output(Output::kPresentValue, p->v_head_size, &p->present_value);
  if (status.ok()) status = read_mask_strides(input(from, Input::kAttnMask), &p->mask);
  for (const int i : {Input::kNonpadKvSeqlen, Input::kSinks, Input::kAlibiSlopes}) {
    if (status.ok()) status = check_contiguous(input(from, i), input_name(i));
  }
  for (const int i : {Output::kQkMatmulOutput, Output::kLse}) {
    if (status.ok()) status = check_contiguous(output(from, i), output_name(i));
  }
  return status;
}

// An empty tensor may have no memory, and yet it is there; aligned, or a plan would blame it for where it lies.
void* data_of(const flashonnx_tensor* tensor) {
  alignas(256) static char nothing = 0;
  if (tensor == nullptr) return nullptr;
  return tensor->data != nullptr ? tensor->data : &nothing;
}

void set_all_data(const flashonnx_node& from, Problem* problem) {
  TensorData data;
  for (int i = 0; i < contract::kNumInputs; ++i) data.inputs[static_cast<size_t>(i)] = data_of(input(from, i));
  for (int i = 0; i < contract::kNumOutputs; ++i) data.outputs[static_cast<size_t>(i)] = data_of(output(from, i));
  set_data(data, problem);
}

}  // namespace

Status read_node(const flashonnx_node& from, Node* node) {
  for (int i = 0; i < contract::kNumInputs; ++i) {
    const flashonnx_tensor* tensor = input(from, i);
    if (tensor == nullptr) continue;
    TensorDesc& desc = node->inputs[static_cast<size_t>(i)].emplace();
    Status status = read_desc(*tensor, input_name(i), &desc);
    if (!status.ok()) return status;
  }
  for (int i = 0; i < contract::kNumOutputs; ++i) node->outputs[static_cast<size_t>(i)] = output(from, i) != nullptr;
  for (int i = 0; i < from.num_attributes; ++i) {
    Status status = read_attribute(from.attributes[i], &node->attributes);
    if (!status.ok()) return status;
  }
  return {};
}

Status read_problem_without_data(const flashonnx_node& from, Problem* problem) {
  Node node;
  Status status = read_node(from, &node);
  if (status.ok()) status = make_problem(node, problem);
  if (status.ok()) status = read_all_strides(from, problem);
  if (status.ok()) set_all_data(from, problem);
  return status;
}

Status read_device_problem(const flashonnx_node& from, Problem* problem) {
  Node node;
  Status status = read_node(from, &node);
  if (status.ok()) status = make_problem(node, problem);
  if (status.ok()) status = check_tensors(from, *problem);
  if (status.ok()) status = read_all_strides(from, problem);
  if (status.ok()) set_all_data(from, problem);
  return status;
}

Status read_problem(const flashonnx_node& from, Problem* problem) {
  const Status status = read_device_problem(from, problem);
  return status.ok() ? check_values(*problem) : status;
}

}  // namespace flashonnx::capi

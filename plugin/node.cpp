#include "plugin/node.h"

#include <algorithm>
#include <string>
#include <tuple>

namespace flashonnx::trt {
namespace {

using contract::Input;

struct TypePair {
  DType ours;
  nvinfer1::DataType tensorrt;
};

constexpr TypePair kTypes[] = {
    {DType::kFloat, nvinfer1::DataType::kFLOAT},   {DType::kFloat16, nvinfer1::DataType::kHALF},
    {DType::kBFloat16, nvinfer1::DataType::kBF16}, {DType::kInt64, nvinfer1::DataType::kINT64},
    {DType::kBool, nvinfer1::DataType::kBOOL},
};

std::string packed() { return std::string("attribute '") + contract::kPackedQkv + "'"; }

// Ours, but none that an input of the contract may have.
constexpr DType kUnsupported = static_cast<DType>(-1);

}  // namespace

DType to_dtype(nvinfer1::DataType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.tensorrt == type) return pair.ours;
  }
  return kUnsupported;
}

nvinfer1::DataType to_tensorrt(DType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.ours == type) return pair.tensorrt;
  }
  return nvinfer1::DataType::kFLOAT;
}

Shape to_shape(const nvinfer1::Dims& dims) { return Shape(dims.d, dims.d + (dims.nbDims > 0 ? dims.nbDims : 0)); }

Status Layout::check(int32_t num_inputs) const {
  const auto given = static_cast<size_t>(num_inputs);
  if (!inputs.empty() && inputs.size() != given) {
    return Status::error(std::string("attribute '") + contract::kPresentInputs + "' names " +
                         std::to_string(inputs.size()) + " inputs, and the node has " + std::to_string(num_inputs));
  }
  if (num_inputs > contract::kNumInputs) {
    return Status::error("the node has " + std::to_string(num_inputs) + " inputs; allowed: at most " +
                         std::to_string(contract::kNumInputs));
  }
  return {};
}

const contract::TensorRule* Layout::rule(int32_t position, int32_t num_inputs) const {
  if (!check(num_inputs).ok()) return nullptr;
  if (position < num_inputs) return &contract::kInputs[input(position)];
  const auto output = static_cast<size_t>(position - num_inputs);
  return output < outputs.size() ? &contract::kOutputs[outputs[output]] : nullptr;
}

Status unpack_qkv(Node* node) {
  const auto& [q_num_heads, kv_num_heads] = std::tie(node->attributes.q_num_heads, node->attributes.kv_num_heads);
  auto& inputs = node->inputs;
  if (!inputs[Input::kQ] || inputs[Input::kK] || inputs[Input::kV] || !q_num_heads || !kv_num_heads) {
    return Status::error(packed() + " goes with input 'Q', without 'K' and 'V', and with both numbers of heads");
  }
  const TensorDesc given = *inputs[Input::kQ];
  inputs[Input::kK] = inputs[Input::kV] = given;
  if (!given.has_shape) return {};
  const int64_t heads = *q_num_heads + 2 * *kv_num_heads;
  const int64_t columns = given.dims.size() == 3 ? given.dims[2] : kUnknownSize;
  if (*q_num_heads < 1 || *kv_num_heads < 1 || columns < 1 || columns % heads != 0) {
    return Status::error(packed() + ": input 'Q' has shape " + to_string(given.dims) +
                         "; allowed: 3D, its last dimension a multiple of q_num_heads + 2*kv_num_heads, " +
                         std::to_string(heads) + ", that is known when the engine is built");
  }
  inputs[Input::kQ]->dims[2] = columns / heads * *q_num_heads;
  inputs[Input::kK]->dims[2] = inputs[Input::kV]->dims[2] = columns / heads * *kv_num_heads;
  return {};
}

void view_packed_qkv(Problem* problem) {
  const int64_t q_columns = problem->q_num_heads * problem->head_size;
  const int64_t kv_columns = problem->kv_num_heads * problem->head_size;
  const int64_t row_stride = q_columns + 2 * kv_columns;
  const auto* data = static_cast<const char*>(problem->q.data);
  const auto view = [&](int64_t first_column) {
    const void* first = data + first_column * size_of(problem->dtype);
    return flashonnx::Input{first, problem->q_sequence_length * row_stride, problem->head_size, row_stride};
  };
  problem->q = view(0);
  problem->k = view(q_columns);
  problem->v = view(q_columns + kv_columns);
}

bool is_allowed(const contract::TensorRule& rule, DType type, DType t) {
  const contract::TypeRule& types = contract::kTypes[rule.type];
  if (types.or_t && type == t) return true;
  if (rule.type == contract::Type::kT && type != t) return false;
  return std::find(types.allowed, types.allowed + types.count, type) != types.allowed + types.count;
}

Node node_of_attributes(const Attributes& attributes) {
  Node node;
  node.attributes = attributes;
  TensorDesc unknown;
  unknown.has_shape = false;
  for (int i = 0; i < contract::kNumInputs; ++i) {
    if (!contract::kInputs[i].optional) node.inputs[static_cast<size_t>(i)] = unknown;
  }
  return node;
}

}  // namespace flashonnx::trt

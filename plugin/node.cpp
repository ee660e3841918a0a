#include "plugin/node.h"

#include <algorithm>
#include <string>

namespace flashonnx::trt {
namespace {

struct TypePair {
  DType ours;
  nvinfer1::DataType tensorrt;
};

constexpr TypePair kTypes[] = {
    {DType::kFloat, nvinfer1::DataType::kFLOAT},   {DType::kFloat16, nvinfer1::DataType::kHALF},
    {DType::kBFloat16, nvinfer1::DataType::kBF16}, {DType::kInt64, nvinfer1::DataType::kINT64},
    {DType::kBool, nvinfer1::DataType::kBOOL},
};

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

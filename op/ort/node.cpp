#include "op/ort/node.h"

#include <vector>

#include "op/ort/attributes.h"

namespace flashonnx::ort {
namespace {

// Stands for the data of empty tensors, which ONNX Runtime may leave null: null means absent to a Problem. Aligned, or
// a plan would blame it for where it lies.
alignas(256) char kEmpty;

// KernelInfo_Get{Node,Input,Output}Name alike: first the size, then the text with its final zero.
template <typename Get>
Status read_name(const OrtApi* api, Get&& get, std::string* name) {
  size_t size = 0;
  Status status = from_ort(api, get(nullptr, &size));
  if (!status.ok() || size == 0) return status;
  std::string text(size, '\0');
  status = from_ort(api, get(text.data(), &size));
  text.resize(size - 1);
  *name = std::move(text);
  return status;
}

Status read_static_input(const OrtApi* api, const OrtKernelInfo* info, size_t index, TensorDesc* desc) {
  OrtTypeInfo* type = nullptr;
  Status status = from_ort(api, api->KernelInfo_GetInputTypeInfo(info, index, &type));
  if (!status.ok()) return status;
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // owned by type
  status = from_ort(api, api->CastTypeInfoToTensorInfo(type, &tensor));
  if (status.ok() && tensor != nullptr) status = read_tensor_info(api, tensor, desc);
  // An unknown rank comes as rank 0, which no input has.
  desc->has_shape = tensor != nullptr && !desc->dims.empty();
  api->ReleaseTypeInfo(type);
  return status;
}

Status read_inputs(const OrtApi* api, const OrtKernelInfo* info, Node* node) {
  size_t count = 0;
  Status status = from_ort(api, api->KernelInfo_GetInputCount(info, &count));
  for (size_t i = 0; status.ok() && i < count && i < node->inputs.size(); ++i) {
    std::string name;
    status = read_name(
        api, [&](char* out, size_t* size) { return api->KernelInfo_GetInputName(info, i, out, size); }, &name);
    if (!status.ok() || name.empty()) continue;
    status = read_static_input(api, info, i, &node->inputs[i].emplace());
  }
  return status;
}

Status read_outputs(const OrtApi* api, const OrtKernelInfo* info, Node* node) {
  size_t count = 0;
  Status status = from_ort(api, api->KernelInfo_GetOutputCount(info, &count));
  for (size_t i = 0; status.ok() && i < count && i < node->outputs.size(); ++i) {
    std::string name;
    status = read_name(
        api, [&](char* out, size_t* size) { return api->KernelInfo_GetOutputName(info, i, out, size); }, &name);
    node->outputs[i] = !name.empty();
  }
  return status;
}

Status read_tensor(const OrtApi* api, const OrtValue* value, TensorDesc* desc, const void** data) {
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  Status status = from_ort(api, api->GetTensorTypeAndShape(value, &raw));
  if (!status.ok()) return status;
  const TensorInfo info(raw, TensorInfoDeleter{api});
  status = read_tensor_info(api, raw, desc);
  if (!status.ok()) return status;
  void* pointer = nullptr;
  status = from_ort(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &pointer));
  *data = pointer != nullptr ? pointer : &kEmpty;
  return status;
}

Status allocate_output(const OrtApi* api, OrtKernelContext* context, size_t index, const Shape& dims, void** data) {
  OrtValue* value = nullptr;
  Status status = from_ort(api, api->KernelContext_GetOutput(context, index, dims.data(), dims.size(), &value));
  if (!status.ok() || value == nullptr) return status;
  status = from_ort(api, api->GetTensorMutableData(value, data));
  if (*data == nullptr) *data = &kEmpty;
  return status;
}

}  // namespace

Status NodeInfo::read(const OrtApi* api, const OrtKernelInfo* info, NodeInfo* node) {
  Status status = read_name(
      api, [&](char* out, size_t* size) { return api->KernelInfo_GetNodeName(info, out, size); }, &node->name_);
  if (status.ok()) status = read_attributes(api, info, &node->node_.attributes);
  if (status.ok()) status = read_inputs(api, info, &node->node_);
  if (status.ok()) status = read_outputs(api, info, &node->node_);
  Sizes sizes;
  if (status.ok()) status = check_node(node->node_, &sizes);
  return status;
}

std::string NodeInfo::where() const { return contract::kOpType + (name_.empty() ? "" : " '" + name_ + "'"); }

Status NodeInfo::make_problem(const OrtApi* api, OrtKernelContext* context, Problem* problem) const {
  Node node = node_;
  TensorData data;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (!node.inputs[i]) continue;
    const OrtValue* value = nullptr;
    Status status = from_ort(api, api->KernelContext_GetInput(context, i, &value));
    if (!status.ok()) return status;
    node.inputs[i].reset();
    if (value == nullptr) continue;
    status = read_tensor(api, value, &node.inputs[i].emplace(), &data.inputs[i]);
    if (!status.ok()) return status;
  }
  Status status = flashonnx::make_problem(node, problem);
  if (!status.ok()) return status;
  const int q_rank = static_cast<int>(node.inputs[contract::Input::kQ]->dims.size());
  for (int i = 0; i < contract::kNumOutputs; ++i) {
    const auto index = static_cast<size_t>(i);
    if (!node.outputs[index]) continue;
    status = allocate_output(api, context, index, output_dims(*problem, i, q_rank), &data.outputs[index]);
    if (!status.ok()) return status;
  }
  set_data(data, problem);
  return {};
}

}  // namespace flashonnx::ort

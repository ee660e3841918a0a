#include "op/ort/shape_inference.h"

#include <atomic>
#include <string>
#include <vector>

#include "op/core/check.h"
#include "op/ort/attributes.h"
#include "op/ort/custom_op.h"

namespace flashonnx::ort {
namespace {

// Names of symbolic dimensions, numbered downwards from -2 (op/core/sizes.h).
class Symbols {
 public:
  int64_t number(const std::string& name) {
    for (size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == name) return first() - static_cast<int64_t>(i);
    }
    names_.push_back(name);
    return first() - static_cast<int64_t>(names_.size() - 1);
  }

  const std::string& name(int64_t number) const { return names_[static_cast<size_t>(first() - number)]; }

 private:
  static int64_t first() { return kUnknownSize - 1; }

  std::vector<std::string> names_;
};

// A dimension without a name would be stored as the number -1, and a name that two nodes share would make their
// dimensions equal.
std::string unique_name() {
  static std::atomic<uint64_t> counter{0};
  return "flashonnx_unknown_" + std::to_string(counter++);
}

class ShapeInference {
 public:
  ShapeInference(const OrtApi* api, OrtShapeInferContext* context) : api_(api), context_(context) {}

  // A node that fails its check still gets types, and unknown sizes: ONNX Runtime would drop an error here and take the
  // outputs' type from the last input. The same check fails with its message when the kernel is made.
  Status run() {
    Node node;
    Status status = read_attributes(api_, context_, &node.attributes);
    if (status.ok()) status = read_inputs(&node);
    Sizes sizes;
    if (!status.ok() || !check_node(node, &sizes).ok()) sizes = Sizes();
    // The context does not tell how many outputs the node has, and refuses those beyond.
    for (int i = 0; i < contract::kNumOutputs && write(i, infer_output(node, sizes, i)).ok(); ++i) continue;
    return {};
  }

 private:
  Status read_inputs(Node* node) {
    size_t count = 0;
    Status status = from_ort(api_, api_->ShapeInferContext_GetInputCount(context_, &count));
    for (size_t i = 0; status.ok() && i < count && i < node->inputs.size(); ++i) status = read(i, &node->inputs[i]);
    return status;
  }

  Status read(size_t index, std::optional<TensorDesc>* input) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
    Status status = from_ort(api_, api_->ShapeInferContext_GetInputTypeShape(context_, index, &info));
    if (!status.ok() || info == nullptr) return status;
    TensorDesc desc;
    status = read_tensor_info(api_, info, &desc);
    if (!status.ok() || desc.dtype == DType::kUndefined) return status;
    // An unknown rank comes as rank 0, which no input has.
    desc.has_shape = !desc.dims.empty();
    std::vector<const char*> names(desc.dims.size(), "");
    status = from_ort(api_, api_->GetSymbolicDimensions(info, names.data(), names.size()));
    for (size_t i = 0; i < names.size(); ++i) {
      if (desc.dims[i] < 0) desc.dims[i] = *names[i] ? symbols_.number(names[i]) : kUnknownSize;
    }
    *input = std::move(desc);
    return status;
  }

  Status write(int index, const TensorDesc& desc) {
    OrtTensorTypeAndShapeInfo* raw = nullptr;
    Status status = from_ort(api_, api_->CreateTensorTypeAndShapeInfo(&raw));
    if (!status.ok()) return status;
    const TensorInfo info(raw, TensorInfoDeleter{api_});
    std::vector<int64_t> dims;
    std::vector<std::string> names;
    for (const int64_t dim : desc.dims) {
      dims.push_back(dim < 0 ? -1 : dim);
      names.push_back(dim >= 0 ? "" : dim == kUnknownSize ? unique_name() : symbols_.name(dim));
    }
    std::vector<const char*> texts;
    for (const std::string& name : names) texts.push_back(name.c_str());
    const auto type = static_cast<ONNXTensorElementDataType>(desc.dtype);
    status = from_ort(api_, api_->SetTensorElementType(raw, type));
    if (status.ok()) status = from_ort(api_, api_->SetDimensions(raw, dims.data(), dims.size()));
    if (status.ok()) status = from_ort(api_, api_->SetSymbolicDimensions(raw, texts.data(), texts.size()));
    if (!status.ok()) return status;
    return from_ort(api_, api_->ShapeInferContext_SetOutputTypeShape(context_, static_cast<size_t>(index), raw));
  }

  const OrtApi* api_;
  OrtShapeInferContext* context_;
  Symbols symbols_;
};

}  // namespace

OrtStatusPtr ORT_API_CALL infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const FlashAttentionOp*>(op)->api.functions;
  return to_ort(api, contract::kOpType, guarded([&] { return ShapeInference(api, context).run(); }));
}

}  // namespace flashonnx::ort

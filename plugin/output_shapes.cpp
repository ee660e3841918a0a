#include "plugin/output_shapes.h"

#include <string>

namespace flashonnx::trt {
namespace {

using contract::DimRule;
using contract::kOutputs;
using contract::ShapeRule;
using contract::SizeRule;
using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

// Dimensions that the build does not know as numbers stand in a Shape as symbols (op/core/sizes.h).
class Expressions {
 public:
  explicit Expressions(nvinfer1::IExprBuilder& builder) : builder_(builder) {}

  Shape read(const nvinfer1::DimsExprs& dims) {
    Shape shape;
    for (int32_t i = 0; i < dims.nbDims; ++i) {
      const IDimensionExpr* dim = dims.d[i];
      if (dim->isConstant()) {
        shape.push_back(dim->getConstantValue());
      } else {
        symbols_.push_back(dim);
        shape.push_back(kUnknownSize - static_cast<int64_t>(symbols_.size()));
      }
    }
    return shape;
  }

  // nullptr where the inputs do not tell.
  const IDimensionExpr* dim(const Sizes& sizes, const DimRule& rule) const {
    const IDimensionExpr* first = size(sizes, rule.factors[0]);
    if (rule.factors[1] < 0) return first;
    return combine(DimensionOperation::kPROD, first, size(sizes, rule.factors[1]));
  }

 private:
  const IDimensionExpr* size(const Sizes& sizes, int index) const {
    const int64_t value = sizes.get(index);
    if (value >= 0) return builder_.constant(value);
    if (value < kUnknownSize) return symbols_[static_cast<size_t>(kUnknownSize - value - 1)];
    const SizeRule& rule = contract::kSizes[index];
    if (rule.sum[0] < 0) return nullptr;
    return combine(DimensionOperation::kSUM, size(sizes, rule.sum[0]), size(sizes, rule.sum[1]));
  }

  const IDimensionExpr* combine(DimensionOperation operation, const IDimensionExpr* a, const IDimensionExpr* b) const {
    return a != nullptr && b != nullptr ? builder_.operation(operation, *a, *b) : nullptr;
  }

  nvinfer1::IExprBuilder& builder_;
  std::vector<const IDimensionExpr*> symbols_;
};

const ShapeRule& rule_of_rank(const contract::TensorRule& rule, size_t rank) {
  const bool second = rule.num_shapes > 1 && static_cast<size_t>(rule.shapes[0].rank) != rank;
  return rule.shapes[second ? 1 : 0];
}

Status write_shape(const Expressions& expressions, const Sizes& sizes, const contract::TensorRule& tensor, size_t rank,
                   nvinfer1::DimsExprs* output) {
  const ShapeRule& rule = rule_of_rank(tensor, rank);
  output->nbDims = rule.rank;
  for (int i = 0; i < rule.rank; ++i) {
    output->d[i] = expressions.dim(sizes, rule.dims[i]);
    if (output->d[i] != nullptr) continue;
    return Status::error(std::string("dimension ") + std::to_string(i) + " of output '" + tensor.name +
                         "' is not known; heads and head sizes must be static in TensorRT");
  }
  return {};
}

}  // namespace

Status output_shapes(const Layout& layout, const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                     int32_t num_inputs, nvinfer1::IExprBuilder& builder, nvinfer1::DimsExprs* outputs) {
  Expressions expressions(builder);
  Node node;
  Status status = make_node(
      layout, attributes, num_inputs,
      [&](int32_t i) { return TensorDesc{DType::kUndefined, expressions.read(inputs[i]), true}; }, &node);
  Sizes sizes;
  if (status.ok()) status = check_node(node, &sizes);
  for (size_t i = 0; status.ok() && i < layout.outputs.size(); ++i) {
    const int index = layout.outputs[i];
    const size_t rank = infer_output(node, sizes, index).dims.size();
    status = write_shape(expressions, sizes, kOutputs[index], rank, &outputs[i]);
  }
  return status;
}

}  // namespace flashonnx::trt

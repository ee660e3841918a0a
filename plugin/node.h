// From TensorRT's descriptions of tensors to the contract's.
#pragma once

#include <NvInferRuntime.h>

#include <vector>

#include "op/core/check.h"

namespace flashonnx::trt {

DType to_dtype(nvinfer1::DataType type);
nvinfer1::DataType to_tensorrt(DType type);
Shape to_shape(const nvinfer1::Dims& dims);  // unknown dimensions are -1 on both sides

// Which of the contract's tensors a layer has. TensorRT knows no absent input or output: what a node leaves out is
// left out of the layer too, and those that remain are told by the attributes present_inputs and present_outputs.
// With packed_qkv, Q's tensor holds K and V too.
struct Layout {
  std::vector<int32_t> inputs;  // contract's indices, ascending; empty: the first ones, as many as the layer has
  std::vector<int32_t> outputs{contract::Output::kY};
  bool packed_qkv = false;

  // The contract's index of the layer's input `position`.
  int32_t input(int32_t position) const { return inputs.empty() ? position : inputs[static_cast<size_t>(position)]; }

  // That a layer may have that many inputs.
  Status check(int32_t num_inputs) const;

  // The rule for what TensorRT numbers `position` among inputs and then outputs; nullptr if there is none.
  const contract::TensorRule* rule(int32_t position, int32_t num_inputs) const;
};

// Q, K and V of a node whose Q, (batch, rows, q_num_heads + 2 * kv_num_heads times head_size), holds all three.
Status unpack_qkv(Node* node);

// Likewise of a problem whose Q has data: views into it, in place of contiguous tensors.
void view_packed_qkv(Problem* problem);

// The node that a layer is. `describe(position)` is the TensorDesc of the layer's input `position`.
template <typename Describe>
Status make_node(const Layout& layout, const Attributes& attributes, int32_t num_inputs, Describe&& describe,
                 Node* node) {
  Status status = layout.check(num_inputs);
  if (!status.ok()) return status;
  node->attributes = attributes;
  for (int32_t i = 0; i < num_inputs; ++i) node->inputs[static_cast<size_t>(layout.input(i))] = describe(i);
  for (const int32_t output : layout.outputs) node->outputs[static_cast<size_t>(output)] = true;
  return layout.packed_qkv ? unpack_qkv(node) : Status();
}

// Whether a tensor of `rule` may have `type` where Q has `t`.
bool is_allowed(const contract::TensorRule& rule, DType type, DType t);

// A node with ranks and dtypes that are not known, to check attributes alone.
Node node_of_attributes(const Attributes& attributes);

}  // namespace flashonnx::trt

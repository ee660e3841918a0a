// From a node to a Problem: the one place where ranks, dimensions, dtypes and attributes are checked.
//
// What is allowed is data (op/contract/flash_attention.json). A message names what is wrong, what it was and what is
// allowed, without a prefix: callers that know the node's name put it in front.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "flashonnx/contract.h"  // generated from op/contract/flash_attention.json into the build folder
#include "op/core/problem.h"
#include "op/core/sizes.h"
#include "op/core/status.h"

namespace flashonnx {

struct TensorDesc {
  DType dtype = DType::kUndefined;  // kUndefined: not known, which only shape inference may say
  Shape dims;
  bool has_shape = true;  // false: not even the rank is known
};

struct Attributes {
  int64_t is_causal = contract::kIsCausalDefault;
  std::optional<double> scale;
  double softcap = contract::kSoftcapDefault;
  std::optional<int64_t> q_num_heads;
  std::optional<int64_t> kv_num_heads;
  int64_t left_window_size = contract::kLeftWindowSizeDefault;
  int64_t right_window_size = contract::kRightWindowSizeDefault;
  int64_t qk_matmul_output_mode = contract::kQkMatmulOutputModeDefault;
  std::optional<int64_t> softmax_precision;
  int64_t mean_without_keys = contract::kMeanWithoutKeysDefault;
};

// Calls visit(contract::Attribute index, member) for each attribute: who reads or checks them all starts here.
template <typename AttributesT, typename Visitor>
void for_each_attribute(AttributesT& attributes, Visitor&& visit) {
  using contract::Attribute;
  visit(Attribute::kIsCausal, attributes.is_causal);
  visit(Attribute::kScale, attributes.scale);
  visit(Attribute::kSoftcap, attributes.softcap);
  visit(Attribute::kQNumHeads, attributes.q_num_heads);
  visit(Attribute::kKvNumHeads, attributes.kv_num_heads);
  visit(Attribute::kLeftWindowSize, attributes.left_window_size);
  visit(Attribute::kRightWindowSize, attributes.right_window_size);
  visit(Attribute::kQkMatmulOutputMode, attributes.qk_matmul_output_mode);
  visit(Attribute::kSoftmaxPrecision, attributes.softmax_precision);
  visit(Attribute::kMeanWithoutKeys, attributes.mean_without_keys);
}

// What a node says, by the contract's indices; an absent optional input is nullopt.
struct Node {
  std::array<std::optional<TensorDesc>, contract::kNumInputs> inputs;
  std::array<bool, contract::kNumOutputs> outputs{};  // which are asked for
  Attributes attributes;
};

// Checks all that is known of a node, and tells its sizes. Dimensions, ranks and dtypes may still be unknown.
Status check_node(const Node& node, Sizes* sizes);

// What a node's output `index` will be, as far as `sizes` tell. Where Q's rank is not known, attributes decide on Y's.
TensorDesc infer_output(const Node& node, const Sizes& sizes, int index);

// Sizes, scalars and the strides of contiguous tensors, without data. Everything must be known here.
Status make_problem(const Node& node, Problem* problem);

// Data by the contract's indices, nullptr where a tensor is absent; an empty tensor needs some pointer too.
struct TensorData {
  std::array<const void*, contract::kNumInputs> inputs{};
  std::array<void*, contract::kNumOutputs> outputs{};
};
void set_data(const TensorData& data, Problem* problem);

// The shape of output `index` of a checked problem; rank 3 or 4 of Y as Q's was.
Shape output_dims(const Problem& problem, int index, int q_rank);

// Lengths that only the data tell: nonpad_kv_seqlen within 0..kv_sequence_length. Reads host memory.
Status check_values(const Problem& problem);

}  // namespace flashonnx

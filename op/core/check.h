// From a node to a Problem: the one place where ranks, dimensions, dtypes and attributes are checked.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "flashonnx/contract.h"  // generated from op/contract/flash_attention.json into the build folder
#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx {

struct TensorDesc {
  DType dtype = DType::kUndefined;
  std::vector<int64_t> dims;
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
};

// What a node says, by the contract's indices; an absent optional input is nullopt.
struct Node {
  std::array<std::optional<TensorDesc>, contract::kNumInputs> inputs;
  std::array<bool, contract::kNumOutputs> outputs{};  // which are asked for
  Attributes attributes;
};

// Sizes, scalars and the strides of contiguous tensors; data pointers are the caller's to set (set_data).
Status make_problem(const Node& node, Problem* problem);

// The shape of output `index` of a checked problem; rank 3 or 4 of Y as Q's was.
std::vector<int64_t> output_dims(const Problem& problem, int index, int q_rank);

// Lengths that only the data tell: nonpad_kv_seqlen within 0..kv_sequence_length. Reads host memory.
Status check_values(const Problem& problem);

}  // namespace flashonnx

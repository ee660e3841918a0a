// What the tables of the generated flashonnx/contract.h are made of; generate_header.py fills them from the JSON file.
#pragma once

#include <cstdint>

#include "op/core/problem.h"

namespace flashonnx::contract {

// One dimension of a shape: a named size, or the product of two, such as q_num_heads*head_size.
struct DimRule {
  int factors[2];  // indices into kSizes; the second is -1 where there is one factor
};

struct ShapeRule {
  int rank;
  DimRule dims[4];
};

// A size that shapes share, such as head_size.
struct SizeRule {
  const char* name;
  int64_t min;
  int sum[2];       // this size is the sum of these two; -1 where it is its own
  int multiple_of;  // must be a multiple of this size; -1: of none
  int absent;       // 0 if the size is zero when no tensor has it, -1 if some tensor always has it
};

struct TypeRule {
  const char* name;
  int count;
  DType allowed[4];
  bool or_t;  // the type of T is allowed too
};

struct TensorRule {
  const char* name;
  int type;  // index into kTypes
  bool optional;
  int with;  // the tensor that comes and goes with this one (an input's for an input, an output's for an output); -1
  int same_rank_as;  // index of the input that chooses between the shapes; -1: this tensor's own rank does
  bool broadcast;    // the only shape is what the tensor is broadcast to, its last dimension possibly shorter
  int num_shapes;
  ShapeRule shapes[2];
};

// Two tensors that exclude each other, indices as above.
struct Exclusion {
  int input;
  bool other_is_output;
  int other;
};

struct AttributeRule {
  const char* name;
  bool is_float;
  bool has_min;
  double min;
  int num_allowed;  // 0: any value
  int64_t allowed[4];
  int with_rank;  // given exactly where Q has this rank; 0: with any
  int size;       // the size that the attribute sets; -1: none
};

}  // namespace flashonnx::contract

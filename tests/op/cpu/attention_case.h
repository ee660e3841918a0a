// Attention problems with their tensors, for tests: described in a line, filled with random values, guarded by
// canaries.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "op/core/check.h"
#include "op/core/problem.h"

namespace flashonnx::testing {

enum class MaskKind { kNone, kBool, kFloat };

struct Case {
  DType dtype = DType::kFloat;
  int64_t batch_size = 1, q_num_heads = 2, kv_num_heads = 2;
  int64_t q_sequence_length = 16, kv_sequence_length = 16, past_sequence_length = 0;
  int64_t head_size = 16, v_head_size = 16;
  bool rank3 = false;
  bool is_causal = false;
  int64_t left_window_size = -1, right_window_size = -1;
  double softcap = 0;
  double scale = 0;  // 0: the default
  MaskKind mask = MaskKind::kNone;
  std::vector<int64_t> mask_dims;
  bool mask_in_blocks = false;
  bool nonpad = false, sinks = false, present = false, mean_without_keys = false;
  int alibi_rank = 0;  // 0: none
  unsigned seed = 1;
};

// Any mixture of sizes and features that the contract allows.
Case random_case(unsigned seed);

std::string to_string(const Case& c);

// Bytes of a tensor between two runs of canaries.
class Buffer {
 public:
  explicit Buffer(int64_t bytes);
  void* data() { return bytes_.data() + kGuard; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()) - 2 * kGuard; }
  bool canaries_live() const;

 private:
  static constexpr int kGuard = 64;
  static constexpr char kCanary = '\xa5';
  std::vector<char> bytes_;
};

// A case's problem with inputs filled in, ready to run.
class Instance {
 public:
  explicit Instance(const Case& c);
  Instance(const Instance&) = delete;

  const Problem& problem() const { return problem_; }
  Problem& problem() { return problem_; }

  // Elements of output `index`, as numbers.
  std::vector<double> output(int index) const;
  std::string output_bytes(int index) const;
  bool has_output(int index) const { return node_.outputs[static_cast<size_t>(index)]; }
  bool canaries_live() const;

  // Overwrites the outputs, so that a kernel that writes nothing is noticed.
  void spoil_outputs();

 private:
  void add_input(int index, DType dtype, const Shape& dims);
  void fill();

  Case case_;
  Node node_;
  Problem problem_;
  mutable std::vector<Buffer> inputs_, outputs_;
  std::vector<Shape> output_dims_;
};

}  // namespace flashonnx::testing

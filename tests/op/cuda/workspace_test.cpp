// What the workspace holds, and that what is reserved for the largest sizes is enough for all smaller ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {
namespace {

alignas(256) char memory[256];  // stands for tensors that are there

Problem random_problem(std::mt19937& random) {
  const auto upto = [&](int64_t most) { return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  Problem problem;
  problem.dtype = DType::kFloat16;
  problem.head_size = 64 * upto(4);
  problem.v_head_size = random() % 2 ? upto(256) : 8 * upto(32);
  problem.kv_num_heads = upto(16);
  problem.q_num_heads = problem.kv_num_heads * upto(8);
  problem.batch_size = upto(64);
  problem.q_sequence_length = upto(random() % 2 ? 8 : 4096);
  problem.kv_sequence_length = upto(int64_t{1} << random() % 17);
  if (random() % 3 == 0) {
    problem.past_sequence_length = upto(4096);
    problem.past_key.data = problem.past_value.data = memory;
  }
  if (random() % 2 == 0) {
    problem.mask = {memory, random() % 2 ? DType::kBool : DType::kFloat16};
    for (int64_t* stride :
         {&problem.mask.batch_stride, &problem.mask.head_stride, &problem.mask.row_stride, &problem.mask.key_stride}) {
      *stride = static_cast<int64_t>(random() % 2);  // whether there is one: set_mask_strides
    }
  }
  return problem;
}

// Contiguous; what is broadcast stays so.
void set_mask_strides(Problem* p) {
  Mask& mask = p->mask;
  mask.length = p->total_sequence_length();
  int64_t elements = mask.key_stride != 0 ? mask.length : 1;
  for (const auto& [stride, size] : {std::pair{&mask.row_stride, p->q_sequence_length},
                                     {&mask.head_stride, p->q_num_heads},
                                     {&mask.batch_stride, p->batch_size}}) {
    if (*stride == 0) continue;
    *stride = elements;
    elements *= size;
  }
}

void set_strides(Problem* p) {
  set_mask_strides(p);
  p->q = {memory, p->q_num_heads * p->q_sequence_length * p->head_size, p->q_sequence_length * p->head_size,
          p->head_size};
  p->k = {memory, p->kv_num_heads * p->kv_sequence_length * p->head_size, p->kv_sequence_length * p->head_size,
          p->head_size};
  p->v = {memory, p->kv_num_heads * p->kv_sequence_length * p->v_head_size, p->kv_sequence_length * p->v_head_size,
          p->v_head_size};
}

Problem shrink(Problem problem, std::mt19937& random) {
  const auto upto = [&](int64_t most) { return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  problem.batch_size = upto(problem.batch_size);
  problem.q_sequence_length = upto(problem.q_sequence_length);
  problem.kv_sequence_length = upto(problem.kv_sequence_length);
  if (problem.past_key) problem.past_sequence_length = upto(problem.past_sequence_length);
  set_strides(&problem);
  return problem;
}

int64_t plain_workspace_bytes(Problem problem, const Device& device) {
  problem.mask = {};
  return plan(problem, device).workspace_bytes;
}

TEST(Workspace, OfTheLargestIsEnoughForTheSmaller) {
  std::mt19937 random(1);
  int split = 0, copied = 0;
  for (int i = 0; i < 20000; ++i) {
    Problem largest = random_problem(random);
    set_strides(&largest);
    Device device;
    device.compute_capability = random() % 2 ? 90 : 80;
    device.multiprocessors = 20 + static_cast<int>(random() % 230);
    device.shared_memory_bytes = 160 << 10;
    const int64_t reserved = max_workspace_bytes(largest, device);
    for (int j = 0; j < 4; ++j) {
      const Problem small = shrink(largest, random);
      const Plan smaller = plan(small, device);
      ASSERT_TRUE(smaller.status.ok()) << smaller.status.message();
      ASSERT_LE(smaller.workspace_bytes, reserved) << name(smaller.kernel) << ", " << smaller.splits << " splits";
      split += smaller.splits > 1;
      copied += smaller.kernel == Kernel::kSm90 && smaller.workspace_bytes > plain_workspace_bytes(small, device);
    }
  }
  EXPECT_GT(split, 100);  // else this would show nothing
  EXPECT_GT(copied, 100);
}

// A problem of 2 x 3 x 100 x 200 scores, whose attn_mask has rows of 200 elements `row_stride` apart.
Problem masked(DType dtype, int64_t row_stride) {
  Problem problem;
  problem.dtype = DType::kFloat16;
  problem.batch_size = 2;
  problem.q_num_heads = problem.kv_num_heads = 3;
  problem.q_sequence_length = 100;
  problem.kv_sequence_length = 200;
  problem.head_size = problem.v_head_size = 64;
  set_strides(&problem);
  problem.mask = {memory, dtype, 3 * 100 * row_stride, 100 * row_stride, row_stride, 1, 200};
  return problem;
}

Device known(int compute_capability) {
  Device device;
  EXPECT_TRUE(known_device(compute_capability, &device).ok());
  return device;
}

int64_t bytes_for_mask(const Problem& problem, int compute_capability = 90) {
  const Device device = known(compute_capability);
  return plan(problem, device).workspace_bytes - plain_workspace_bytes(problem, device);
}

int64_t whole_256(int64_t bytes) { return (bytes + 255) / 256 * 256; }

TEST(Workspace, HoldsACounterWhereTilesAreDrawn) {
  Problem problem = masked(DType::kFloat16, 200);
  problem.is_causal = true;
  const auto bytes = [&](int64_t batch_size, int64_t rows) {
    problem.batch_size = batch_size;
    problem.q_sequence_length = rows;
    set_strides(&problem);
    return plain_workspace_bytes(problem, known(90));
  };
  EXPECT_EQ(bytes(50, 200), whole_256(sizeof(int)));
  EXPECT_EQ(bytes(5, 200), 0);   // a tile a multiprocessor
  EXPECT_EQ(bytes(50, 100), 0);  // a tile a head, all alike
  const int64_t lengths = 0;     // which planning does not read
  problem.nonpad_kv_seqlen = &lengths;
  EXPECT_EQ(bytes(50, 100), whole_256(sizeof(int)));  // they may differ by batch entry
  problem.nonpad_kv_seqlen = nullptr;
  problem.is_causal = false;
  EXPECT_EQ(bytes(50, 200), 0);  // all alike
}

TEST(Workspace, HoldsACopyOfAMaskThatTheCopyEngineCannotRead) {
  EXPECT_EQ(bytes_for_mask(masked(DType::kFloat16, 200)), 0);
  EXPECT_EQ(bytes_for_mask(masked(DType::kFloat16, 201)), whole_256(2 * 3 * 100 * 200 * 2));
  EXPECT_EQ(bytes_for_mask(masked(DType::kFloat16, 201), 80), 0);
  EXPECT_EQ(bytes_for_mask(masked(DType::kBool, 208)), 0);
  EXPECT_EQ(bytes_for_mask(masked(DType::kBool, 200)), whole_256(2 * 3 * 100 * 208));  // rows of whole 16 bytes
  Problem shifted = masked(DType::kBool, 208);
  shifted.mask.data = memory + 1;
  EXPECT_EQ(bytes_for_mask(shifted), whole_256(2 * 3 * 100 * 208));
}

TEST(Workspace, AMaskIsCopiedWithoutTheDimensionsThatItIsBroadcastOver) {
  Problem problem = masked(DType::kFloat16, 201);
  problem.mask.head_stride = 0;
  EXPECT_EQ(bytes_for_mask(problem), whole_256(2 * 100 * 200 * 2));
  problem.mask.row_stride = 0;
  EXPECT_EQ(bytes_for_mask(problem), whole_256(2 * 200 * 2));
  problem.mask.key_stride = 0;  // one value for all keys of a row: the copy has one for each
  EXPECT_EQ(bytes_for_mask(problem), whole_256(2 * 200 * 2));
}

}  // namespace
}  // namespace flashonnx::cuda

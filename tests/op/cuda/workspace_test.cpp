// That the workspace reserved for the largest sizes is enough for all smaller ones, which may be split more.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {
namespace {

alignas(256) char memory[256];  // stands for tensors that are there

Problem random_problem(std::mt19937& random) {
  const auto upto = [&](int64_t most) { return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most)); };
  Problem problem;
  problem.dtype = DType::kFloat16;
  problem.head_size = 64 * upto(4);
  problem.v_head_size = upto(256);
  problem.kv_num_heads = upto(16);
  problem.q_num_heads = problem.kv_num_heads * upto(8);
  problem.batch_size = upto(64);
  problem.q_sequence_length = upto(random() % 2 ? 8 : 4096);
  problem.kv_sequence_length = upto(int64_t{1} << random() % 17);
  if (random() % 3 == 0) {
    problem.past_sequence_length = upto(4096);
    problem.past_key.data = problem.past_value.data = memory;
  }
  return problem;
}

void set_strides(Problem* p) {
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

TEST(Workspace, OfTheLargestIsEnoughForTheSmaller) {
  std::mt19937 random(1);
  int split = 0;
  for (int i = 0; i < 20000; ++i) {
    Problem largest = random_problem(random);
    set_strides(&largest);
    Device device;
    device.compute_capability = random() % 2 ? 90 : 80;
    device.multiprocessors = 20 + static_cast<int>(random() % 230);
    device.shared_memory_bytes = 160 << 10;
    const int64_t reserved = max_workspace_bytes(largest, device);
    for (int j = 0; j < 4; ++j) {
      const Plan smaller = plan(shrink(largest, random), device);
      ASSERT_TRUE(smaller.status.ok()) << smaller.status.message();
      ASSERT_LE(smaller.workspace_bytes, reserved) << name(smaller.kernel) << ", " << smaller.splits << " splits";
      split += smaller.splits > 1;
    }
  }
  EXPECT_GT(split, 100);  // else this would show nothing
}

}  // namespace
}  // namespace flashonnx::cuda

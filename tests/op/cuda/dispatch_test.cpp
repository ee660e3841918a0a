// Which kernel a problem gets on which GPU, and in what words: host code, so it is tested where there is no GPU.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {
namespace {

alignas(256) char memory[256];  // stands for tensors that are there

// (batch_size, heads, rows, columns), contiguous but for the padding behind each row.
template <typename Pointer>
void set_view(int64_t heads, int64_t rows, int64_t columns, int64_t padding, View<Pointer>* view) {
  *view = {memory, heads * rows * (columns + padding), rows * (columns + padding), columns + padding};
}

struct Shape {
  int64_t batch_size = 2;
  int64_t q_num_heads = 8;
  int64_t kv_num_heads = 8;
  int64_t q_sequence_length = 1024;
  int64_t kv_sequence_length = 1024;
  int64_t head_size = 128;
  int64_t v_head_size = 128;
  int64_t padding = 0;  // elements between rows
};

Problem make(const Shape& shape, DType dtype = DType::kFloat16) {
  Problem problem;
  problem.dtype = dtype;
  problem.batch_size = shape.batch_size;
  problem.q_num_heads = shape.q_num_heads;
  problem.kv_num_heads = shape.kv_num_heads;
  problem.q_sequence_length = shape.q_sequence_length;
  problem.kv_sequence_length = shape.kv_sequence_length;
  problem.head_size = shape.head_size;
  problem.v_head_size = shape.v_head_size;
  problem.scale = 0.1;
  set_view(shape.q_num_heads, shape.q_sequence_length, shape.head_size, shape.padding, &problem.q);
  set_view(shape.kv_num_heads, shape.kv_sequence_length, shape.head_size, shape.padding, &problem.k);
  set_view(shape.kv_num_heads, shape.kv_sequence_length, shape.v_head_size, shape.padding, &problem.v);
  set_view(shape.q_num_heads, shape.q_sequence_length, shape.v_head_size, shape.padding, &problem.y);
  return problem;
}

Shape decoding(int64_t batch_size, int64_t keys) {
  Shape shape;
  shape.batch_size = batch_size;
  shape.q_num_heads = 32;
  shape.q_sequence_length = 1;
  shape.kv_sequence_length = keys;
  return shape;
}

Shape sized(int64_t head_size, int64_t v_head_size) {
  Shape shape;
  shape.head_size = head_size;
  shape.v_head_size = v_head_size;
  return shape;
}

std::string planned(const Problem& problem, int compute_capability) {
  Device device;
  const Status known = known_device(compute_capability, &device);
  if (!known.ok()) return known.message();
  const Plan chosen = plan(problem, device);
  return chosen.status.ok() ? describe(chosen) : chosen.status.message();
}

#define EXPECT_PART(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

constexpr const char* kTooManyRows = "not split: 1024 query rows per key/value head, it is for 64 or fewer";

TEST(Dispatch, LongQueriesTakeTheTilesOfTheirGpu) {
  const Problem problem = make({});
  EXPECT_EQ(planned(problem, 90), std::string("sm90, 128 x 128 tiles (") + kTooManyRows + ")");
  for (const int other : {80, 86, 89, 100, 120}) {
    EXPECT_EQ(planned(problem, other),
              std::string("sm80, 128 x 64 tiles (") + kTooManyRows + "; not sm90: it needs compute capability 9.0)");
  }
}

TEST(Dispatch, TilesOfTheSm90Kernel) {
  EXPECT_PART(planned(make(sized(192, 128)), 90), "sm90, 128 x 128 tiles");
  EXPECT_PART(planned(make(sized(192, 192)), 90), "sm90, 128 x 112 tiles");
  EXPECT_PART(planned(make(sized(256, 256)), 90), "sm90, 128 x 80 tiles");
}

TEST(Dispatch, TilesOfHeadSize64AreTallUnlessTheyLeaveTheGpuIdle) {
  const auto of = [](int64_t batch_size, int64_t heads, int64_t rows, bool is_causal) {
    Shape shape = sized(64, 64);
    shape.batch_size = batch_size;
    shape.q_num_heads = shape.kv_num_heads = heads;
    shape.q_sequence_length = shape.kv_sequence_length = rows;
    Problem problem = make(shape);
    problem.is_causal = is_causal;
    return planned(problem, 90);
  };
  EXPECT_PART(of(4, 16, 8192, false), "sm90, 192 x 128 tiles");
  EXPECT_PART(of(4, 16, 2048, false), "sm90, 192 x 128 tiles");  // 6 rounds, or 8 of 128 rows, which cost more a row
  EXPECT_PART(of(8, 12, 512, false), "sm90, 128 x 128 tiles");   // 3 rounds of either
  EXPECT_PART(of(1, 16, 1024, false), "sm90, 128 x 128 tiles");  // one round of either
  EXPECT_PART(of(4, 16, 2048, true), "sm90, 192 x 128 tiles");
  EXPECT_PART(of(4, 16, 1024, true), "sm90, 128 x 128 tiles");
}

TEST(Dispatch, TilesOfModifiedScoresLeaveRoomForTheMask) {
  const auto capped = [](int64_t size) {
    Problem problem = make(sized(size, size));
    problem.softcap = 30;
    return planned(problem, 90);
  };
  EXPECT_PART(capped(64), "sm90, 192 x 128 tiles");
  EXPECT_PART(capped(128), "sm90, 128 x 128 tiles");
  EXPECT_PART(capped(192), "sm90, 128 x 64 tiles");
  EXPECT_PART(capped(256), "sm90, 128 x 64 tiles");
}

TEST(Dispatch, TilesOfTheSm80Kernel) {
  EXPECT_PART(planned(make(sized(64, 64)), 80), "sm80, 128 x 128 tiles");
  EXPECT_PART(planned(make(sized(128, 128)), 80), "sm80, 128 x 64 tiles");
  EXPECT_PART(planned(make(sized(256, 256)), 80), "sm80, 64 x 64 tiles");
}

TEST(Dispatch, FewQueriesAreSplitOverTheMultiprocessors) {
  EXPECT_EQ(planned(make(decoding(1, 131072)), 90), "split, 16 x 128 tiles, keys in 16 parts (the first choice)");
  EXPECT_EQ(planned(make(decoding(1, 300)), 90), "split, 16 x 128 tiles (the first choice)");    // too few keys
  EXPECT_EQ(planned(make(decoding(64, 8192)), 90), "split, 16 x 64 tiles (the first choice)");   // enough tiles
  EXPECT_EQ(planned(make(decoding(16, 8192)), 90), "split, 16 x 128 tiles (the first choice)");  // almost enough
  EXPECT_PART(planned(make(decoding(8, 8192)), 90), "split, 16 x 128 tiles, keys in 2 parts");
  Shape small_heads = decoding(8, 8192);
  small_heads.head_size = small_heads.v_head_size = 64;
  EXPECT_PART(planned(make(small_heads), 90), "split, 16 x 256 tiles, keys in 2 parts");
}

TEST(Dispatch, TwoSplitBlocksShareAMultiprocessorWhereOneEachWouldLeaveSomeIdle) {
  EXPECT_PART(planned(make(decoding(10, 8192)), 90), "split, 16 x 64 tiles, keys in 3 parts");  // 80 tiles for 132
  EXPECT_PART(planned(make(decoding(5, 8192)), 90), "split, 16 x 128 tiles, keys in 3 parts");  // 120 blocks
}

TEST(Dispatch, SplitBlocksAreNarrowWhereWideOnesWouldHaveFewKeys) {
  EXPECT_PART(planned(make(decoding(1, 8192)), 90), "split, 16 x 64 tiles, keys in 32 parts");
  EXPECT_PART(planned(make(decoding(1, 16384)), 90), "split, 16 x 128 tiles, keys in 16 parts");
  EXPECT_PART(planned(make(decoding(4, 2048)), 90), "split, 16 x 64 tiles, keys in 8 parts");
  EXPECT_PART(planned(make(decoding(1, 4096)), 90), "split, 16 x 128 tiles, keys in 16 parts");  // of 256 keys
}

TEST(Dispatch, SplitBlocksAreAsWideAsSharedMemoryAllows) {
  EXPECT_PART(planned(make(decoding(1, 8192)), 80), "split, 16 x 64 tiles, keys in 13 parts");
  EXPECT_PART(planned(make(decoding(1, 8192)), 89), "split, 16 x 32 tiles, keys in 17 parts");
}

TEST(Dispatch, RowsThatTheCopyEngineCannotReadGoToSm80) {
  Shape odd;
  odd.padding = 3;
  EXPECT_PART(planned(make(odd), 90), "sm80, 128 x 64 tiles");
  EXPECT_PART(planned(make(odd), 90), "not sm90: rows of Q, K, V or Y do not all start at multiples of 16 bytes");
}

TEST(Dispatch, FloatHasTilesOfItsOwn) {
  EXPECT_PART(planned(make(sized(64, 64), DType::kFloat), 90), "sm80, 128 x 64 tiles");
  EXPECT_PART(planned(make(sized(96, 96), DType::kFloat), 90), "sm80, 128 x 32 tiles");
  EXPECT_PART(planned(make(sized(64, 64), DType::kFloat), 90), "not sm90: it takes float16 and bfloat16");
  EXPECT_PART(planned(make(decoding(1, 8192), DType::kFloat), 90), "split, 16 x 64 tiles, keys in");
  EXPECT_PART(planned(make(sized(256, 256), DType::kFloat), 89), "sm80, 64 x 16 tiles");
}

TEST(Dispatch, WhatNoTiledKernelTakesGoesToTheNaiveOne) {
  EXPECT_PART(planned(make({}, DType::kDouble), 90), "naive");
  EXPECT_PART(planned(make({}, DType::kDouble), 90), "not sm80: it takes float, float16 and bfloat16");
  EXPECT_PART(planned(make(sized(320, 320)), 90), "naive");
  EXPECT_PART(planned(make(sized(320, 320)), 90),
              "not sm80: head_size 320, v_head_size 320 exceed what it is built for");
  Problem debugged = make({});
  debugged.qk_matmul_output = memory;
  EXPECT_PART(planned(debugged, 80), "not sm80: it never holds qk_matmul_output");
}

TEST(Dispatch, WhatNoKernelTakesIsAnError) {
  EXPECT_PART(planned(make(sized(20000, 20000)), 90), "no CUDA kernel takes this problem: not split: ");
  EXPECT_PART(planned(make(sized(20000, 20000)), 90),
              "not naive: head_size 20000, v_head_size 20000 exceed shared memory");
}

TEST(Dispatch, GpusBeforeAmpereAreRefused) {
  Device old;
  old.compute_capability = 75;
  old.multiprocessors = 40;
  old.shared_memory_bytes = 64 << 10;
  EXPECT_EQ(plan(make({}), old).status.message(), "the GPU has compute capability 7.5; allowed: 8.0 or later");
  EXPECT_EQ(planned(make({}), 75),
            "no GPU of compute capability 7.5 is known; allowed: 8.0, 8.6, 8.9, 9.0, 10.0, 12.0");
}

// The environment variable for the length of a test.
class Forced {
 public:
  explicit Forced(const char* kernel) { setenv(kKernelVariable, kernel, 1); }
  ~Forced() { unsetenv(kKernelVariable); }
};

TEST(Dispatch, AKernelCanBeForced) {
  {
    const Forced forced("sm80");
    EXPECT_EQ(planned(make({}), 90), "sm80, 128 x 64 tiles (forced by FLASHONNX_CUDA_KERNEL)");
  }
  {
    const Forced forced("sm90");
    EXPECT_EQ(planned(make({}), 80), "FLASHONNX_CUDA_KERNEL asks for sm90, but it needs compute capability 9.0");
  }
  const Forced forced("fast");
  EXPECT_EQ(planned(make({}), 90), "FLASHONNX_CUDA_KERNEL is 'fast'; it may be split, sm90, sm80, naive");
}

TEST(Run, WithoutAGpuIsAnErrorAndNoMore) {
  Device device;
  if (query_current_device(&device).ok()) GTEST_SKIP() << "there is a GPU";
  EXPECT_FALSE(run_with_pool(make({}), 0, nullptr).ok());
}

}  // namespace
}  // namespace flashonnx::cuda

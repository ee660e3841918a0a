// What attention means, in cases small enough to work out by hand. Every variant, the oracle too.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>

#include "op/cpu/convert.h"
#include "tests/op/cpu/kernel_variants.h"

namespace flashonnx::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// One batch entry, one head of size 1: with K all 0 every score is 0, and V = 1, 2, 4, ... tells which keys took part.
// Three query heads alike, which share Q and Y, make more rows than the kernel for few rows takes.
class Semantics : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  static constexpr int kRows = 3, kKeys = 4, kMostHeads = 3;

  Semantics() {
    p_.dtype = DType::kFloat;
    p_.batch_size = p_.kv_num_heads = p_.head_size = p_.v_head_size = 1;
    p_.q_num_heads = std::get<int>(GetParam());
    p_.q_sequence_length = kRows;
    p_.kv_sequence_length = kKeys;
    p_.scale = 1;
    p_.q = {q_, kRows, 0, 1};
    p_.k = {k_, kKeys, kKeys, 1};
    p_.v = {v_, kKeys, kKeys, 1};
    p_.y = {y_, kRows, 0, 1};
    p_.lse = lse_;
  }

  void mask_with(const void* mask, DType dtype, int64_t row_stride, int64_t key_stride = 1) {
    p_.mask = {mask, dtype, 0, 0, row_stride, key_stride, kKeys};
  }

  void run() {
    const ForcedKernel forced(std::get<std::string>(GetParam()));
    const Status status = plan_and_run(p_, InlineParallel());
    ASSERT_TRUE(status.ok()) << status.message();
  }

  // Row i is the mean of these values, and its lse the log of their number.
  void expect_mean(int i, std::vector<float> values) {
    const auto count = static_cast<float>(values.size());
    EXPECT_NEAR(y_[i], mean(values), 1e-6) << "row " << i;
    if (values.empty()) {
      EXPECT_EQ(lse_[i], -kInf) << "row " << i;
    } else {
      EXPECT_NEAR(lse_[i], std::log(count), 1e-6) << "row " << i;
    }
  }

  // Row i has no key, and is the mean of these values.
  void expect_mean_without_keys(int i, const std::vector<float>& values) {
    EXPECT_NEAR(y_[i], mean(values), 1e-6) << "row " << i;
    EXPECT_EQ(lse_[i], -kInf) << "row " << i;
  }

  static float mean(const std::vector<float>& values) {
    float sum = 0;
    for (const float value : values) sum += value;
    return values.empty() ? 0.0f : sum / static_cast<float>(values.size());
  }

  Problem p_;
  float q_[kRows] = {1, 1, 1};
  float k_[kKeys] = {0, 0, 0, 0};
  float v_[kKeys] = {1, 2, 4, 8};
  float y_[kRows] = {kNaN, kNaN, kNaN};
  float lse_[kMostHeads * kRows] = {kNaN, kNaN, kNaN};
};

TEST_P(Semantics, AllKeysByDefault) {
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {1, 2, 4, 8});
}

TEST_P(Semantics, CausalIsAlignedAtTheTopLeft) {
  p_.is_causal = true;
  run();
  expect_mean(0, {1});
  expect_mean(1, {1, 2});
  expect_mean(2, {1, 2, 4});
}

TEST_P(Semantics, CausalCountsThePast) {
  p_.is_causal = true;
  p_.past_sequence_length = 2;
  p_.kv_sequence_length = 2;
  p_.past_key = {k_, 2, 2, 1};
  p_.past_value = {v_, 2, 2, 1};
  p_.k.data = k_ + 2;
  p_.v.data = v_ + 2;
  run();
  expect_mean(0, {1, 2, 4});
  expect_mean(1, {1, 2, 4, 8});
}

TEST_P(Semantics, CausalCountsTheValidKeys) {
  const int64_t nonpad = 2;
  p_.nonpad_kv_seqlen = &nonpad;
  p_.is_causal = true;
  run();
  expect_mean(0, {});  // its position is -1
  expect_mean(1, {1});
  expect_mean(2, {1, 2});
}

TEST_P(Semantics, PaddingIsNotRead) {
  const int64_t nonpad = 2;
  p_.nonpad_kv_seqlen = &nonpad;
  k_[2] = v_[2] = k_[3] = v_[3] = kNaN;
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {1, 2});
}

TEST_P(Semantics, WindowsReachBothWays) {
  p_.left_window_size = 1;
  p_.right_window_size = 0;
  run();
  expect_mean(0, {1});
  expect_mean(1, {1, 2});
  expect_mean(2, {2, 4});
}

TEST_P(Semantics, BoolMaskAllowsWhereTrue) {
  const bool mask[kRows][kKeys] = {{true, false, true, false}, {false, false, false, false}, {true, true, true, true}};
  mask_with(mask, DType::kBool, kKeys);
  run();
  expect_mean(0, {1, 4});
  expect_mean(1, {});
  expect_mean(2, {1, 2, 4, 8});
}

TEST_P(Semantics, MaskShorterThanTheKeysForbidsTheRest) {
  const bool mask[] = {true, true, true};
  mask_with(mask, DType::kBool, 0);
  p_.mask.length = 3;
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {1, 2, 4});
}

TEST_P(Semantics, OneMaskValueCanServeAllKeys) {
  const float mask[kRows] = {0, -kInf, 3};
  mask_with(mask, DType::kFloat, 1, 0);
  run();
  expect_mean(0, {1, 2, 4, 8});
  expect_mean(1, {});
  EXPECT_NEAR(y_[2], 3.75f, 1e-6);
  EXPECT_NEAR(lse_[2], 3 + std::log(4.0f), 1e-6);
}

TEST_P(Semantics, FloatMaskOfMinusInfinityForbidsEvenNaN) {
  const float mask[] = {0, -kInf, 0, -kInf};
  mask_with(mask, DType::kFloat, 0);
  k_[1] = kNaN;
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {1, 4});
}

// Exporters write the lowest finite float for "forbidden": a row that has nothing else is the mean of all V.
TEST_P(Semantics, RowOfLowestFloatsIsTheMean) {
  const float low = std::numeric_limits<float>::lowest();
  const float mask[kRows][kKeys] = {{low, low, low, low}, {0, low, 0, low}, {0, 0, 0, 0}};
  mask_with(mask, DType::kFloat, kKeys);
  run();
  EXPECT_NEAR(y_[0], 3.75f, 1e-6);
  EXPECT_EQ(lse_[0], low);
  expect_mean(1, {1, 4});
  expect_mean(2, {1, 2, 4, 8});
}

TEST_P(Semantics, NaNStaysInItsRow) {
  q_[1] = kNaN;
  run();
  expect_mean(0, {1, 2, 4, 8});
  EXPECT_TRUE(std::isnan(y_[1]) && std::isnan(lse_[1]));
  expect_mean(2, {1, 2, 4, 8});
}

TEST_P(Semantics, NaNOfAnyPayloadStaysOne) {
  for (const uint32_t bits : {0x7f800001u, 0x7fc00001u, 0x7fffffffu, 0xffffffffu}) {
    q_[1] = cpu::float_from_bits(bits);
    run();
    EXPECT_TRUE(std::isnan(y_[1]) && std::isnan(lse_[1])) << std::hex << bits;
    expect_mean(2, {1, 2, 4, 8});
  }
}

TEST_P(Semantics, DeadRowIsZeroWhateverVHolds) {
  const bool mask[] = {true, true, true, true, false, false, false, false, true, true, true, true};
  mask_with(mask, DType::kBool, kKeys);
  v_[2] = kNaN;
  run();
  expect_mean(1, {});
}

TEST_P(Semantics, HugeScoresLeaveTheLargest) {
  p_.scale = 1.3;  // no power of two: scores are rounded
  for (const float size : {1e7f, 1e12f, 1e20f, 1e30f}) {
    for (int j = 0; j < kKeys; ++j) k_[j] = -size * static_cast<float>(1 + (j + 3) % kKeys);
    run();
    for (int i = 0; i < kRows; ++i) {
      EXPECT_EQ(y_[i], 2) << size;
      EXPECT_NEAR(lse_[i] / (-1.3 * static_cast<double>(size)), 1, 1e-6);
    }
    for (int j = 0; j < kKeys; ++j) k_[j] = -k_[j];
    run();
    for (int i = 0; i < kRows; ++i) {
      EXPECT_EQ(y_[i], 1) << size;
      EXPECT_NEAR(lse_[i] / (4 * 1.3 * static_cast<double>(size)), 1, 1e-6);
    }
  }
}

TEST_P(Semantics, SoftcapComesBeforeTheMask) {
  const float mask[] = {-kInf, 0, 5, -kInf};
  mask_with(mask, DType::kFloat, 0);
  p_.softcap = 2;
  k_[1] = k_[2] = 100;  // capped to 2 both
  run();
  const float share = 1 / (1 + std::exp(-5.0f));
  for (int i = 0; i < kRows; ++i) EXPECT_NEAR(y_[i], 4 * share + 2 * (1 - share), 1e-5);
}

TEST_P(Semantics, MeanWithoutKeysIsOverEveryKey) {
  const bool mask[] = {false, false, false, false, true, false, true, false, false, false, false, false};
  mask_with(mask, DType::kBool, kKeys);
  p_.mean_without_keys = true;
  p_.past_sequence_length = p_.kv_sequence_length = 2;
  p_.past_key = {k_, 2, 2, 1};
  p_.past_value = {v_, 2, 2, 1};
  p_.k.data = k_ + 2;
  p_.v.data = v_ + 2;
  run();
  expect_mean_without_keys(0, {1, 2, 4, 8});
  expect_mean(1, {1, 4});
  expect_mean_without_keys(2, {1, 2, 4, 8});
}

TEST_P(Semantics, MeanWithoutKeysNeedsNoLse) {
  const bool mask[] = {false, false, false, false};
  mask_with(mask, DType::kBool, 0);
  p_.mean_without_keys = true;
  p_.lse = nullptr;
  run();
  for (const float y : y_) EXPECT_NEAR(y, 3.75f, 1e-6);
}

TEST_P(Semantics, MeanWithoutKeysLeavesPaddingOut) {
  const int64_t nonpad = 2;
  p_.nonpad_kv_seqlen = &nonpad;
  p_.is_causal = true;
  p_.mean_without_keys = true;
  v_[2] = v_[3] = kNaN;
  run();
  expect_mean_without_keys(0, {1, 2});
  expect_mean(1, {1});
  expect_mean(2, {1, 2});
}

TEST_P(Semantics, MeanWithoutKeysOfNoKeysIsZero) {
  const int64_t nonpad = 0;
  p_.nonpad_kv_seqlen = &nonpad;
  p_.mean_without_keys = true;
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {});
}

TEST_P(Semantics, SinkTakesItsShareAndNoMore) {
  const float sink = std::log(4.0f);  // as much as the four keys
  const float sinks[kMostHeads] = {sink, sink, sink};
  p_.sinks = sinks;
  p_.is_causal = true;
  run();
  EXPECT_NEAR(y_[0], 1.0f / 5, 1e-6);
  EXPECT_NEAR(y_[2], 7.0f / 7, 1e-6);
  EXPECT_NEAR(lse_[2], std::log(7.0f), 1e-6);
}

TEST_P(Semantics, SinkDoesNotRaiseTheDead) {
  const float sinks[kMostHeads] = {3, 3, 3};
  const bool mask[] = {false, false, false, false};
  p_.sinks = sinks;
  mask_with(mask, DType::kBool, 0);
  run();
  for (int i = 0; i < kRows; ++i) expect_mean(i, {});
}

TEST_P(Semantics, AlibiPullsBothWaysFromTheQuery) {
  const float slope = std::log(2.0f);
  const float slopes[kMostHeads] = {slope, slope, slope};
  p_.alibi_slopes = slopes;
  run();
  // Row 1 weighs the keys 1/2, 1, 1/2, 1/4.
  EXPECT_NEAR(y_[1], (0.5f * 1 + 1 * 2 + 0.5f * 4 + 0.25f * 8) / 2.25f, 1e-6);
}

TEST_P(Semantics, ScaleMayBeNegativeOrZero) {
  k_[3] = 1;
  p_.scale = -std::log(3.0);
  run();
  EXPECT_NEAR(y_[0], (1 + 2 + 4 + 8 / 3.0f) / (3 + 1 / 3.0f), 1e-6);
  p_.scale = 0;
  run();
  expect_mean(0, {1, 2, 4, 8});
}

TEST_P(Semantics, EmptyTensorsAreNoWork) {
  class CountingParallel final : public Parallel {
   public:
    void run(int64_t count, Task, void*) const override { tasks += count; }
    mutable int64_t tasks = 0;
  } parallel;
  p_.batch_size = int64_t{1} << 31;
  p_.q_sequence_length = p_.kv_sequence_length = 0;
  p_.present_key = {k_, 0, 0, 1};
  p_.present_value = {v_, 0, 0, 1};
  const ForcedKernel forced(std::get<std::string>(GetParam()));
  EXPECT_TRUE(plan_and_run(p_, parallel).ok());
  EXPECT_EQ(parallel.tasks, 0);
}

std::vector<std::string> variants() {
  std::vector<std::string> names = runnable_variants();
  names.insert(names.begin(), "naive");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Cpu, Semantics, ::testing::Combine(::testing::ValuesIn(variants()), ::testing::Values(1, 3)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + (std::get<1>(info.param) == 1 ? "_few_rows" : "_more_rows");
                         });

// What qk_matmul_output holds by mode, with -infinity where a key is forbidden and 0 in a row that has none.
TEST(QkMatmulOutput, FollowsItsMode) {
  const float q[] = {1}, k[] = {0.5, 2}, v[] = {1, 2}, mask[] = {1, -kInf};
  float y[1], qk[2];
  Problem p;
  p.dtype = DType::kFloat;
  p.batch_size = p.q_num_heads = p.kv_num_heads = p.head_size = p.v_head_size = p.q_sequence_length = 1;
  p.kv_sequence_length = 2;
  p.scale = 2;
  p.softcap = 3;
  p.q = {q, 1, 1, 1};
  p.k = {k, 2, 2, 1};
  p.v = {v, 2, 2, 1};
  p.y = {y, 1, 1, 1};
  p.mask = {mask, DType::kFloat, 0, 0, 0, 1, 2};
  p.qk_matmul_output = qk;
  const float capped[] = {3 * std::tanh(1 / 3.0f), 3 * std::tanh(4 / 3.0f)};
  const auto expect = [&](QkOutput mode, float first, float second) {
    p.qk_matmul_output_mode = mode;
    EXPECT_EQ(cpu::plan(p).kernel, cpu::Kernel::kNaive);
    ASSERT_TRUE(plan_and_run(p, InlineParallel()).ok());
    EXPECT_FLOAT_EQ(qk[0], first);
    EXPECT_FLOAT_EQ(qk[1], second);
  };
  expect(QkOutput::kScores, 1, 4);
  expect(QkOutput::kAfterSoftcap, capped[0], capped[1]);
  expect(QkOutput::kAfterMask, capped[0] + 1, -kInf);
  expect(QkOutput::kProbabilities, 1, 0);
}

TEST(Plan, RefusesUnknownAndUnsupportedKernels) {
  Problem p;
  p.dtype = DType::kFloat;
  {
    const ForcedKernel forced("fastest");
    EXPECT_NE(cpu::plan(p).status.message().find("allowed are naive, amx_emulated, generic, avx2, avx512"),
              std::string::npos);
  }
  for (const cpu::Isa isa : cpu::kIsas) {
    if (cpu::is_compiled(isa) && cpu::is_supported(isa)) continue;
    const ForcedKernel forced(cpu::name(isa));
    const cpu::Plan plan = cpu::plan(p);
    EXPECT_NE(plan.status.message().find(cpu::name(isa)), std::string::npos);
    EXPECT_FALSE(cpu::run(p, plan, nullptr, InlineParallel()).ok());
  }
}

TEST(Convert, HalvesAndBfloatsRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = cpu::Half{static_cast<uint16_t>(bits)};
    const auto value = static_cast<double>(half);
    EXPECT_TRUE(std::isnan(value) || cpu::Half::from(value).bits == bits) << bits;
    const auto wide = static_cast<double>(cpu::BFloat16{static_cast<uint16_t>(bits)});
    EXPECT_TRUE(std::isnan(wide) || cpu::BFloat16::from(wide).bits == bits) << bits;
  }
  EXPECT_EQ(cpu::Half::from(1.0 + 1.0 / 2048).bits, 0x3c00);  // a tie, to even
  EXPECT_EQ(cpu::Half::from(1.0 + 3.0 / 2048).bits, 0x3c02);
  EXPECT_EQ(cpu::Half::from(65519).bits, 0x7bff);
  EXPECT_EQ(cpu::Half::from(65520).bits, 0x7c00);
  EXPECT_EQ(cpu::Half::from(std::ldexp(1.0, -25)).bits, 0);  // half of the smallest
  EXPECT_TRUE(std::isnan(static_cast<double>(cpu::BFloat16::from(kNaN))));
}

}  // namespace
}  // namespace flashonnx::testing

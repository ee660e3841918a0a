// Every kernel variant against the naive kernel, over a random grid of sizes and features.
#include "op/cpu/flash_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "op/cpu/convert.h"
#include "op/cpu/rows.h"
#include "tests/op/cpu/attention_case.h"
#include "tests/op/cpu/kernel_variants.h"
#include "tests/op/cpu/plain_attention.h"

namespace flashonnx::testing {
namespace {

using contract::Output;

constexpr unsigned kRandomCases = 400;
constexpr unsigned kRandomBfloat16Cases = 60;

double unit_in_last_place(DType dtype, double value) {
  const int bits = dtype == DType::kFloat16 ? 11 : dtype == DType::kBFloat16 ? 8 : 24;
  return std::ldexp(1.0, std::ilogb(std::max(std::abs(value), 1e-4)) - bits + 1);
}

// Largest errors over all runs of a case.
struct Errors {
  double ours = 0, plain = 0;
  double magnitude = 0;  // of the exact values

  // At most 1.5 times the error of plain float attention, and a unit in the last place.
  bool allowed(DType dtype) const { return ours <= 1.5 * plain + unit_in_last_place(dtype, magnitude); }
};

double difference(double value, double exact) {
  if (value == exact || (std::isnan(value) && std::isnan(exact))) return 0;  // infinities too
  const double distance = std::abs(value - exact);
  return std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance;
}

void add_errors(const std::vector<double>& ours, const std::vector<double>& plain, const std::vector<double>& exact,
                Errors& errors) {
  for (size_t i = 0; i < exact.size(); ++i) {
    errors.ours = std::max(errors.ours, difference(ours[i], exact[i]));
    errors.plain = std::max(errors.plain, difference(plain[i], exact[i]));
    if (std::isfinite(exact[i])) errors.magnitude = std::max(errors.magnitude, std::abs(exact[i]));
  }
}

// Y and lse of a run.
struct Results {
  explicit Results(const Instance& instance) : y(instance.output(Output::kY)), lse(instance.output(Output::kLse)) {}
  std::vector<double> y, lse;
};

void expect_ok(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

Results run_kernel(const std::string& variant, Instance& instance, const Parallel& parallel = InlineParallel()) {
  const ForcedKernel forced(variant);
  instance.spoil_outputs();
  expect_ok(plan_and_run(instance.problem(), parallel));
  return Results(instance);
}

// A small case has few errors, and the largest of few says little about either side: a case beyond the limit gets more
// data. An error of the kernel only shows more clearly then.
constexpr int kMostDraws = 20;

void expect_as_exact_as_plain(Case c, const std::string& variant) {
  Errors y, lse;
  for (int draw = 0; draw < kMostDraws; ++draw, c.seed += 100000) {
    Instance instance(c);
    const Results exact = run_kernel("naive", instance);
    run_plain_attention(instance.problem());
    const Results plain(instance);
    const Results ours = run_kernel(variant, instance);
    add_errors(ours.y, plain.y, exact.y, y);
    add_errors(ours.lse, plain.lse, exact.lse, lse);
    if (y.allowed(c.dtype) && lse.allowed(DType::kFloat)) return;
  }
  ADD_FAILURE() << "largest errors, ours and plain: Y " << y.ours << " " << y.plain << ", lse " << lse.ours << " "
                << lse.plain;
}

void expect_whole_caches(const Instance& instance) {
  const Problem& p = instance.problem();
  if (!p.present_key) return;
  const auto expect_rows = [&](const ::flashonnx::Input& past, const ::flashonnx::Input& fresh,
                               const ::flashonnx::Output& present, int64_t columns) {
    for (int64_t b = 0; b < p.batch_size; ++b) {
      for (int64_t h = 0; h < p.kv_num_heads; ++h) {
        for (int64_t j = 0; j < p.total_sequence_length(); ++j) {
          const char* from = cpu::cached_row(past, fresh, p.past_sequence_length, p.dtype, b, h, j);
          const char* to = cpu::row(present, p.dtype, b, h, j);
          const auto bytes = static_cast<size_t>(columns * size_of(p.dtype));
          ASSERT_EQ(std::string(from, bytes), std::string(to, bytes)) << "row " << j;
        }
      }
    }
  };
  expect_rows(p.past_key, p.k, p.present_key, p.head_size);
  expect_rows(p.past_value, p.v, p.present_value, p.v_head_size);
}

class Variant : public ::testing::TestWithParam<std::string> {};

void expect_same_bits_for_any_threads(const Case& c, const std::string& variant) {
  Instance instance(c);
  run_kernel(variant, instance);
  const std::string y = instance.output_bytes(Output::kY), lse = instance.output_bytes(Output::kLse);
  run_kernel(variant, instance, TestParallel(3));
  EXPECT_EQ(y, instance.output_bytes(Output::kY));
  EXPECT_EQ(lse, instance.output_bytes(Output::kLse));
  expect_whole_caches(instance);
  EXPECT_TRUE(instance.canaries_live());
}

void check_case(const Case& c, const std::string& variant) {
  SCOPED_TRACE(to_string(c));
  expect_as_exact_as_plain(c, variant);
  expect_same_bits_for_any_threads(c, variant);
}

TEST_P(Variant, IsExactOnRandomCases) {
  for (unsigned seed = 1; seed <= kRandomCases; ++seed) {
    check_case(random_case(seed), GetParam());
    if (::testing::Test::HasFailure()) return;  // one case's output is enough to read
  }
}

// What random cases may miss.
TEST_P(Variant, IsExactOnChosenCases) {
  std::vector<Case> cases;
  Case c;
  c.q_sequence_length = c.kv_sequence_length = 257;  // blocks and panels with one left over
  c.is_causal = true;
  cases.push_back(c);
  c.dtype = DType::kBFloat16;
  cases.push_back(c);
  c = Case();
  c.q_sequence_length = 200;  // more queries than keys: the first rows see nothing
  c.kv_sequence_length = 40;
  c.is_causal = c.nonpad = true;
  cases.push_back(c);
  c = Case();
  c.q_sequence_length = 1;  // decoding: keys are split and merged
  c.past_sequence_length = 4095;
  c.kv_sequence_length = 1;
  c.q_num_heads = 8;
  c.head_size = c.v_head_size = 128;
  c.is_causal = c.sinks = c.present = true;
  cases.push_back(c);
  c.dtype = DType::kFloat16;
  c.left_window_size = 1000;
  cases.push_back(c);
  c = Case();
  c.q_sequence_length = 3;  // twelve rows: a single panel, which has shorter blocks
  c.q_num_heads = 4;
  c.kv_num_heads = 1;
  c.past_sequence_length = 1290;
  c.kv_sequence_length = 3;
  c.head_size = 64;
  c.v_head_size = 80;
  c.is_causal = true;
  cases.push_back(c);
  c.dtype = DType::kBFloat16;
  c.left_window_size = 500;
  cases.push_back(c);
  c = Case();
  c.q_sequence_length = 5;
  c.kv_sequence_length = 3000;
  c.mask = MaskKind::kBool;
  c.mask_dims = {5, 3000};
  c.head_size = 40;
  c.v_head_size = 24;
  cases.push_back(c);
  c = Case();
  c.batch_size = 2;
  c.q_num_heads = 6;  // which take turns at the mask's rows
  c.kv_num_heads = 6;
  c.q_sequence_length = 170;
  c.kv_sequence_length = 700;
  c.mask_dims = {170, 700};
  c.mask_in_blocks = true;
  for (const MaskKind kind : {MaskKind::kBool, MaskKind::kFloat}) {
    c.mask = kind;
    cases.push_back(c);
  }
  c = Case();
  c.rank3 = true;  // K and V are packed
  c.q_sequence_length = 600;
  c.kv_sequence_length = 200;
  c.is_causal = c.present = true;
  c.past_sequence_length = 30;
  cases.push_back(c);
  c = Case();
  c.kv_sequence_length = 0;  // no key at all
  cases.push_back(c);
  c = Case();
  c.q_sequence_length = 0;
  cases.push_back(c);
  c = Case();
  c.batch_size = 0;
  cases.push_back(c);
  for (const Case& chosen : cases) check_case(chosen, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Cpu, Variant, ::testing::ValuesIn(runnable_variants()),
                         [](const auto& info) { return info.param; });

// The kernels that multiply pairs of bfloat16.
class Bfloat16Variant : public ::testing::TestWithParam<std::string> {};

TEST_P(Bfloat16Variant, IsExactOnRandomCases) {
  for (unsigned seed = 1; seed <= kRandomBfloat16Cases; ++seed) {
    Case c = random_case(seed);
    c.dtype = DType::kBFloat16;
    check_case(c, GetParam());
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_P(Bfloat16Variant, IsExactAroundTheSizesOfTiles) {
  for (const int64_t size : {15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129, 160}) {
    Case c;
    c.dtype = DType::kBFloat16;
    c.q_sequence_length = c.kv_sequence_length = size;
    c.head_size = size % 2 == 0 ? size : 32;  // K is copied, and read in place
    c.v_head_size = size;
    c.left_window_size = size % 3 == 0 ? 5 : -1;  // keys that begin inside of a tile
    c.is_causal = true;
    check_case(c, GetParam());
  }
  Case c;
  c.dtype = DType::kBFloat16;
  c.q_sequence_length = 12;  // a single panel, which has shorter blocks
  c.kv_sequence_length = 230;
  check_case(c, GetParam());
}

TEST_P(Bfloat16Variant, IsForTilesOfBfloat16) {
  const ForcedKernel forced(GetParam());
  Case c;
  const auto isa_of = [](const Case& of) { return std::string(cpu::name(cpu::plan(Instance(of).problem()).isa)); };
  c.dtype = DType::kBFloat16;
  EXPECT_EQ(isa_of(c), GetParam());
  c.dtype = DType::kFloat16;
  EXPECT_NE(isa_of(c), GetParam());
  c.dtype = DType::kBFloat16;
  c.q_sequence_length = 1;
  EXPECT_NE(isa_of(c), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Cpu, Bfloat16Variant, ::testing::ValuesIn(runnable_variants(true)),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace flashonnx::testing

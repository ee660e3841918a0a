// The vector functions of every instruction set that this CPU has, against the C library and the scalar conversions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "op/cpu/convert.h"
#include "op/cpu/isa.h"
#include "tests/op/cpu/simd_probe.h"

namespace flashonnx::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<Isa> runnable() {
  std::vector<Isa> isas;
  for (const Isa isa : kIsas) {
    if (!is_for_bfloat16(isa) && is_compiled(isa) && is_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

double ulps(float value, double exact) {
  const int exponent = std::max(std::ilogb(exact), -126);
  return std::abs(value - exact) / std::ldexp(1.0, exponent - 23);
}

class Simd : public ::testing::TestWithParam<Isa> {
 protected:
  const SimdProbe& probe() const {
#ifdef FLASHONNX_HAS_AVX512
    if (GetParam() == Isa::kAvx512) return avx512::kProbe;
#endif
#ifdef FLASHONNX_HAS_AVX2
    if (GetParam() == Isa::kAvx2) return avx2::kProbe;
#endif
    return generic::kProbe;
  }

  float apply(void (*function)(const float*, float*), float x) const {
    std::vector<float> in(static_cast<size_t>(probe().lanes), x), out(in.size());
    function(in.data(), out.data());
    for (const float lane : out) EXPECT_EQ(bits_of(lane), bits_of(out[0]));
    return out[0];
  }

  // Normal results from `smallest` to 0 within two ulp, 0 from `vanishing` down, and NaN of NaN.
  void expect_exponential(void (*function)(const float*, float*), double (*exact)(double), float smallest,
                          float vanishing) const {
    double worst = 0;
    for (double x = 0; x > smallest; x -= 0.00137) {
      const auto argument = static_cast<float>(x);
      worst = std::max(worst, ulps(apply(function, argument), exact(static_cast<double>(argument))));
    }
    EXPECT_LE(worst, 2.0);
    EXPECT_EQ(apply(function, 0), 1.0f);
    for (const float x : {vanishing, -1000.0f, std::numeric_limits<float>::lowest(), -kInf}) {
      EXPECT_EQ(apply(function, x), 0.0f) << x;
    }
    EXPECT_TRUE(std::isnan(apply(function, std::nanf(""))));
  }
};

TEST_P(Simd, Exp2IsWithinTwoUlp) {
  expect_exponential(probe().exp2_nonpositive, [](double x) { return std::exp2(x); }, -126.0f, -126.6f);
}

TEST_P(Simd, TanhIsWithinFourUlp) {
  double worst = 0;
  for (double x = -12; x < 12; x += 0.00037) {
    const auto argument = static_cast<float>(x);
    if (argument == 0) continue;
    worst = std::max(worst, ulps(apply(probe().tanh, argument), std::tanh(static_cast<double>(argument))));
  }
  EXPECT_LE(worst, 4.0);
  EXPECT_EQ(apply(probe().tanh, 0), 0.0f);
  EXPECT_EQ(apply(probe().tanh, 1e-20f), 1e-20f);
  EXPECT_EQ(apply(probe().tanh, kInf), 1.0f);
  EXPECT_EQ(apply(probe().tanh, -kInf), -1.0f);
  EXPECT_TRUE(std::isnan(apply(probe().tanh, std::nanf(""))));
}

TEST_P(Simd, TransposeMovesEveryElement) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<float> matrix(lanes * lanes);
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<float>(i);
  probe().transpose(matrix.data());
  for (size_t i = 0; i < lanes; ++i) {
    for (size_t j = 0; j < lanes; ++j) EXPECT_EQ(matrix[i * lanes + j], static_cast<float>(j * lanes + i));
  }
}

TEST_P(Simd, SumsEachRow) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<float> matrix(lanes * lanes), sums(lanes), expected(lanes);
  for (size_t i = 0; i < lanes; ++i) {
    for (size_t j = 0; j < lanes; ++j) {
      matrix[i * lanes + j] = static_cast<float>((i + 1) * (j + 3) % 101);  // small integers: no rounding
      expected[i] += matrix[i * lanes + j];
    }
  }
  probe().sum_each(matrix.data(), sums.data());
  EXPECT_EQ(sums, expected);
}

TEST_P(Simd, MaximaOfGroupsReachEachOfTheirLanes) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<float> of_pairs(lanes), of_all(lanes);
  for (size_t largest = 0; largest < lanes; ++largest) {
    std::vector<float> values(lanes, -2.0f), expected(lanes, -2.0f);
    values[largest] = 3.0f;
    expected[largest] = expected[largest ^ 1] = 3.0f;
    probe().max_of_pairs(values.data(), of_pairs.data());
    probe().max_of_all(values.data(), of_all.data());
    EXPECT_EQ(of_pairs, expected);
    EXPECT_EQ(of_all, std::vector<float>(lanes, 3.0f));
  }
}

TEST_P(Simd, LoadsTheHalvesOfEightApart) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<uint16_t> bits(2 * lanes);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = BFloat16::from(static_cast<double>(i + 1) * -0.5).bits;
  std::vector<float> lower(lanes), upper(lanes);
  probe().load_lower_bfloat16(bits.data(), lower.data());
  probe().load_upper_bfloat16(bits.data(), upper.data());
  for (size_t i = 0; i < lanes; ++i) {
    const size_t place = i / 4 * 8 + i % 4;
    EXPECT_EQ(lower[i], static_cast<float>(place + 1) * -0.5f);
    EXPECT_EQ(upper[i], static_cast<float>(place + 5) * -0.5f);
  }
}

// Every half and bfloat16 there is.
TEST_P(Simd, LoadsAgreeWithScalarConversions) {
  const auto lanes = static_cast<uint32_t>(probe().lanes);
  std::vector<uint16_t> bits(lanes);
  std::vector<float> halves(lanes), bfloats(lanes);
  for (uint32_t first = 0; first < 0x10000; first += lanes) {
    for (uint32_t i = 0; i < lanes; ++i) bits[i] = static_cast<uint16_t>(first + i);
    probe().load_half(bits.data(), halves.data());
    probe().load_bfloat16(bits.data(), bfloats.data());
    for (uint32_t i = 0; i < lanes; ++i) {
      const auto half = static_cast<float>(static_cast<double>(Half{bits[i]}));
      const auto bfloat = static_cast<float>(static_cast<double>(BFloat16{bits[i]}));
      EXPECT_TRUE(halves[i] == half || (std::isnan(halves[i]) && std::isnan(half))) << bits[i];
      EXPECT_TRUE(bfloats[i] == bfloat || (std::isnan(bfloats[i]) && std::isnan(bfloat))) << bits[i];
    }
  }
}

TEST_P(Simd, StoresRoundAsScalarConversionsDo) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<float> in(lanes);
  std::vector<uint16_t> halves(lanes), bfloats(lanes);
  uint32_t state = 1;
  for (int round = 0; round < 20000; ++round) {
    for (float& x : in) {
      state = state * 1664525u + 1013904223u;
      x = float_from_bits(round % 2 != 0 ? state : (state & 0x80ffffffu) | 0x38000000u);  // any float; near halves
      if (std::isnan(x)) x = 1;
    }
    probe().store_half(in.data(), halves.data());
    probe().store_bfloat16(in.data(), bfloats.data());
    for (size_t i = 0; i < lanes; ++i) {
      ASSERT_EQ(halves[i], Half::from(in[i]).bits) << in[i];
      ASSERT_EQ(bfloats[i], BFloat16::from(in[i]).bits) << in[i];
    }
  }
}

TEST_P(Simd, MaskBytesAreTrueWhereNotZero) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<uint8_t> bytes(lanes);
  std::vector<float> bias(lanes);
  for (size_t i = 0; i < lanes; ++i) bytes[i] = static_cast<uint8_t>(i % 3);
  probe().load_mask_bytes(bytes.data(), bias.data());
  for (size_t i = 0; i < lanes; ++i) EXPECT_EQ(bias[i], i % 3 == 0 ? -1.0f : 0.0f);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Simd, ::testing::ValuesIn(runnable()),
                         [](const auto& info) { return std::string(name(info.param)); });

}  // namespace
}  // namespace flashonnx::cpu

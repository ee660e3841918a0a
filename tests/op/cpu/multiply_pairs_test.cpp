// Products of bfloat16 pairs in every instruction set that this CPU has, and in the emulated tiles.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "op/cpu/convert.h"
#include "op/cpu/isa.h"
#include "tests/op/cpu/kernel_variants.h"
#include "tests/op/cpu/pair_probe.h"

namespace flashonnx::cpu {
namespace {

const PairProbe& probe_of(const std::string& variant) {
#ifdef FLASHONNX_HAS_AMX
  if (variant == name(Isa::kAmx)) return amx::kPairProbe;
#endif
#ifdef FLASHONNX_HAS_AVX512_BF16
  if (variant == name(Isa::kAvx512Bf16)) return avx512_bf16::kPairProbe;
#endif
  return amx_emulated::kPairProbe;
}

uint16_t bfloat16(double value) { return BFloat16::from(value).bits; }

int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

struct Sizes {
  int64_t rows, depth, columns;
};

// a: (rows, depth), b: (depth, columns). Gives (rows, columns).
std::vector<float> multiply(const PairProbe& probe, const Sizes& sizes, const std::vector<uint16_t>& a,
                            const std::vector<uint16_t>& b) {
  const int64_t rows = rounded_up(sizes.rows, probe.row_step), depth = rounded_up(sizes.depth, probe.depth_step);
  const int64_t stride = depth + 6;
  std::vector<uint16_t> padded(static_cast<size_t>(rows * stride));
  for (int64_t m = 0; m < sizes.rows; ++m) {
    for (int64_t k = 0; k < sizes.depth; ++k) padded[m * stride + k] = a[m * sizes.depth + k];
  }
  std::vector<float> result(static_cast<size_t>(sizes.rows * sizes.columns));
  for (int64_t first = 0; first < sizes.columns; first += probe.panel_rows) {
    const int64_t used = std::min<int64_t>(probe.panel_rows, sizes.columns - first);
    std::vector<uint32_t> pairs(static_cast<size_t>(depth / 2 * probe.panel_rows));
    for (int64_t k = 0; k < sizes.depth; ++k) {
      for (int64_t n = 0; n < used; ++n) {
        const uint32_t value = b[k * sizes.columns + first + n];
        pairs[k / 2 * probe.panel_rows + n] |= k % 2 == 0 ? value : value << 16;
      }
    }
    std::vector<float> c(static_cast<size_t>(rows * probe.panel_rows), 1e30f);
    probe.multiply(padded.data(), stride, rows, pairs.data(), depth, c.data());
    for (int64_t m = 0; m < sizes.rows; ++m) {
      for (int64_t n = 0; n < used; ++n) result[m * sizes.columns + first + n] = c[m * probe.panel_rows + n];
    }
  }
  return result;
}

class Pairs : public ::testing::TestWithParam<std::string> {
 protected:
  const PairProbe& probe() const { return probe_of(GetParam()); }

  // Of one row and one column.
  float dot(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) const {
    return multiply(probe(), {1, static_cast<int64_t>(a.size()), 1}, a, b)[0];
  }
};

TEST_P(Pairs, ProductsOfIntegersAreExact) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> integer(-8, 8);
  for (const Sizes& sizes :
       {Sizes{1, 2, 1}, Sizes{16, 32, 16}, Sizes{17, 34, 5}, Sizes{48, 128, 32}, Sizes{40, 62, 40}}) {
    std::vector<uint16_t> a, b;
    for (int64_t i = 0; i < sizes.rows * sizes.depth; ++i) a.push_back(bfloat16(integer(random)));
    for (int64_t i = 0; i < sizes.depth * sizes.columns; ++i) b.push_back(bfloat16(integer(random)));
    const std::vector<float> c = multiply(probe(), sizes, a, b);
    for (int64_t m = 0; m < sizes.rows; ++m) {
      for (int64_t n = 0; n < sizes.columns; ++n) {
        double exact = 0;
        for (int64_t k = 0; k < sizes.depth; ++k) {
          exact += static_cast<double>(BFloat16{a[m * sizes.depth + k]}) *
                   static_cast<double>(BFloat16{b[k * sizes.columns + n]});
        }
        ASSERT_EQ(c[m * sizes.columns + n], exact) << sizes.rows << " " << sizes.depth << ": " << m << ", " << n;
      }
    }
  }
}

TEST_P(Pairs, SubnormalNumbersAreZero) {
  constexpr uint16_t kSubnormal = 0x0040;  // 2^-127
  EXPECT_EQ(dot({kSubnormal, 0}, {bfloat16(std::ldexp(1, 100)), 0}), 0);
  EXPECT_EQ(dot({bfloat16(std::ldexp(1, -100)), 0}, {bfloat16(std::ldexp(1, -30)), 0}), 0);
  EXPECT_EQ(dot({bfloat16(std::ldexp(1, -100)), 0}, {bfloat16(std::ldexp(1, -26)), 0}), std::ldexp(1.0f, -126));
}

TEST_P(Pairs, InfinityAndNaNComeThrough) {
  const float inf = std::numeric_limits<float>::infinity();
  const uint16_t infinity = bfloat16(inf), one = bfloat16(1);
  EXPECT_EQ(dot({infinity, one}, {one, one}), inf);
  EXPECT_TRUE(std::isnan(dot({infinity, one}, {0, one})));
  EXPECT_TRUE(std::isnan(dot({one, bfloat16(std::nan(""))}, {one, one})));
}

TEST_P(Pairs, StoresRoundAsScalarConversionsDo) {
  std::mt19937 random(2);
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<float> even(lanes), odd(lanes);
  std::vector<uint32_t> pairs(lanes);
  for (int round = 0; round < 5000; ++round) {
    for (size_t i = 0; i < lanes; ++i) {
      even[i] = std::ldexp(static_cast<float>(random()), static_cast<int>(random() % 200) - 130);
      odd[i] = -float_from_bits((static_cast<uint32_t>(random()) & 0x0000ffffu) | 0x3f800000u);  // near ties
    }
    probe().store_pairs(even.data(), odd.data(), pairs.data());
    for (size_t i = 0; i < lanes; ++i) {
      ASSERT_EQ(pairs[i], bfloat16(even[i]) | static_cast<uint32_t>(bfloat16(odd[i])) << 16)
          << even[i] << " " << odd[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Pairs, ::testing::ValuesIn(testing::runnable_variants(true)),
                         [](const auto& info) { return info.param; });

// TDPBF16PS sums all even places, then all odd ones, then both, and rounds each time: 2^24 + 1 is no float.
TEST(EmulatedTiles, SumEvenAndOddPlacesApart) {
  const uint16_t big = bfloat16(std::ldexp(1, 24)), one = bfloat16(1), minus = bfloat16(-1);
  const auto dot = [](const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
    return multiply(amx_emulated::kPairProbe, {1, static_cast<int64_t>(a.size()), 1}, a, b)[0];
  };
  EXPECT_EQ(dot({big, one, one, one}, {one, minus, minus, minus}), std::ldexp(1.0f, 24) - 3);
  EXPECT_EQ(dot({big, one, one, one}, {one, one, one, one}), std::ldexp(1.0f, 24) + 2);
  EXPECT_EQ(dot({big, big, one, 0}, {one, minus, one, one}), 0);
}

TEST(EmulatedTiles, AreTheCpusBitForBit) {
  if (!is_compiled(Isa::kAmx) || !is_supported(Isa::kAmx)) GTEST_SKIP() << "this CPU or build has no AMX";
  std::mt19937 random(3);
  const Sizes sizes{48, 96, 32};
  for (int round = 0; round < 40; ++round) {
    // Exponents near 1, near the smallest, or any.
    const auto number = [&] {
      const auto bits = static_cast<uint32_t>(random());
      const uint32_t exponent = round % 3 == 0 ? 120 + bits % 16 : round % 3 == 1 ? bits % 80 : bits % 256;
      return static_cast<uint16_t>((bits >> 16 & 0x807fu) | exponent << 7);
    };
    std::vector<uint16_t> a(static_cast<size_t>(sizes.rows * sizes.depth)),
        b(static_cast<size_t>(sizes.depth * sizes.columns));
    for (uint16_t& value : a) value = number();
    for (uint16_t& value : b) value = number();
    const std::vector<float> cpu = multiply(probe_of(name(Isa::kAmx)), sizes, a, b);
    const std::vector<float> emulated = multiply(amx_emulated::kPairProbe, sizes, a, b);
    for (size_t i = 0; i < cpu.size(); ++i) {
      if (std::isnan(cpu[i]) && std::isnan(emulated[i])) continue;
      ASSERT_EQ(bits_of(cpu[i]), bits_of(emulated[i])) << cpu[i] << " " << emulated[i] << ", round " << round;
    }
  }
}

}  // namespace
}  // namespace flashonnx::cpu

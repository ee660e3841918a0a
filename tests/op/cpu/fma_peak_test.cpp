// The multiply-adds that the kernels' speed is measured against, of every instruction set that this CPU has.
#include <gtest/gtest.h>

#include <vector>

#include "op/cpu/kernel_table.h"

namespace flashonnx::cpu {
namespace {

TEST(FmaPeak, EachRoundChangesEverySum) {
  for (const Isa isa : kIsas) {
    if (is_for_bfloat16(isa) || !is_compiled(isa) || !is_supported(isa)) continue;
    SCOPED_TRACE(name(isa));
    const FmaPeak& peak = kernel_table(isa).fma_peak;
    ASSERT_LE(peak.sums, kMaxFmaSums);
    std::vector<float> sums, expected;
    for (int64_t i = 0; i < peak.sums; ++i) {
      sums.push_back(static_cast<float>(8 * i));
      expected.push_back(static_cast<float>(i) + 1.75f);  // after x / 2 + 1 three times
    }
    peak.run(3, sums.data());
    EXPECT_EQ(sums, expected);
  }
}

}  // namespace
}  // namespace flashonnx::cpu

// K and V copied once for many tiles: when, and that every row arrives.
#include "op/cpu/packed_keys.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "op/cpu/rows.h"
#include "tests/op/cpu/attention_case.h"
#include "tests/op/cpu/kernel_variants.h"

namespace flashonnx::testing {
namespace {

Case long_case() {
  Case c;
  c.batch_size = 2;
  c.q_num_heads = 6;
  c.kv_num_heads = 2;
  c.q_sequence_length = 200;  // 600 rows a KV head
  c.kv_sequence_length = 70;  // more than a chunk
  c.v_head_size = 24;
  c.rank3 = true;
  return c;
}

TEST(PackedKeys, OnlyWhereRowsLieApartAndManyTilesReadThem) {
  Case c = long_case();
  EXPECT_GT(cpu::packed_bytes(Instance(c).problem()), 0);
  c.rank3 = false;
  EXPECT_EQ(cpu::packed_bytes(Instance(c).problem()), 0);
  c = long_case();
  c.q_sequence_length = 100;
  EXPECT_EQ(cpu::packed_bytes(Instance(c).problem()), 0);
}

void expect_rows(const Problem& p, const ::flashonnx::Input& from, const ::flashonnx::Input& to, int64_t columns) {
  EXPECT_EQ(to.row_stride, columns);
  const auto bytes = static_cast<size_t>(columns * size_of(p.dtype));
  for (int64_t b = 0; b < p.batch_size; ++b) {
    for (int64_t h = 0; h < p.kv_num_heads; ++h) {
      for (int64_t i = 0; i < p.kv_sequence_length; ++i) {
        EXPECT_EQ(std::memcmp(cpu::row(from, p.dtype, b, h, i), cpu::row(to, p.dtype, b, h, i), bytes), 0)
            << "batch " << b << ", head " << h << ", row " << i;
      }
    }
  }
}

TEST(PackedKeys, EveryRowArrives) {
  for (const DType dtype : {DType::kFloat, DType::kBFloat16}) {
    Case c = long_case();
    c.dtype = dtype;
    const Instance instance(c);
    const Problem& p = instance.problem();
    Buffer memory(cpu::packed_bytes(p));
    const Problem packed = cpu::pack_keys(p, memory.data(), TestParallel(3));
    expect_rows(p, p.k, packed.k, p.head_size);
    expect_rows(p, p.v, packed.v, p.v_head_size);
    EXPECT_TRUE(memory.canaries_live());
  }
}

}  // namespace
}  // namespace flashonnx::testing

// Which keys a row may see, held against the definition: a test of every (query, key) pair.
#include "op/core/key_range.h"

#include <gtest/gtest.h>

#include <limits>
#include <tuple>

namespace flashonnx {
namespace {

// ONNX Attention 25: j <= i + offset if causal, i + offset - left <= j <= i + offset + right within the windows.
bool is_allowed(const Problem& p, int64_t nonpad, int64_t i, int64_t j) {
  const int64_t offset = p.nonpad_kv_seqlen ? nonpad - p.q_sequence_length : p.past_sequence_length;
  const int64_t distance = j - (i + offset);
  if (p.nonpad_kv_seqlen && j >= nonpad) return false;
  if (p.mask && j >= p.mask.length) return false;
  if (p.is_causal && distance > 0) return false;
  if (p.left_window_size >= 0 && -distance > p.left_window_size) return false;
  if (p.right_window_size >= 0 && distance > p.right_window_size) return false;
  return true;
}

using Windows = std::tuple<bool, int64_t, int64_t, int64_t, int64_t>;  // causal, left, right, past, nonpad (-1: none)

class KeyRanges : public testing::TestWithParam<Windows> {
 protected:
  KeyRanges() {
    std::tie(problem.is_causal, problem.left_window_size, problem.right_window_size, problem.past_sequence_length,
             nonpad) = GetParam();
    problem.q_sequence_length = 7;
    problem.kv_sequence_length = 9;
    if (nonpad >= 0) problem.nonpad_kv_seqlen = &nonpad;
  }

  void expect_rows_as_defined() const {
    const KeyLimits limits = key_limits(problem, 0);
    for (int64_t i = 0; i < problem.q_sequence_length; ++i) {
      const KeyRange range = limits.row(i);
      for (int64_t j = 0; j < problem.total_sequence_length(); ++j) {
        ASSERT_EQ(j >= range.begin && j < range.end, is_allowed(problem, nonpad, i, j)) << "i=" << i << " j=" << j;
      }
    }
  }

  Problem problem;
  int64_t nonpad = -1;
};

TEST_P(KeyRanges, RowIsTheAllowedInterval) { expect_rows_as_defined(); }

TEST_P(KeyRanges, RowIsCutWhereAShortMaskEnds) {
  const bool mask = true;
  problem.mask.data = &mask;
  problem.mask.length = 4;
  expect_rows_as_defined();
}

TEST_P(KeyRanges, BlocksHoldWhatTheirRowsHold) {
  const KeyLimits limits = key_limits(problem, 0);
  for (int64_t first = 0; first < problem.q_sequence_length; ++first) {
    for (int64_t last = first; last < problem.q_sequence_length; ++last) {
      const KeyRange any = limits.rows(first, last);
      const KeyRange all = limits.every_row(first, last);
      for (int64_t i = first; i <= last; ++i) {
        for (int64_t j = 0; j < problem.total_sequence_length(); ++j) {
          const bool allowed = is_allowed(problem, nonpad, i, j);
          ASSERT_TRUE(!allowed || (j >= any.begin && j < any.end)) << first << ".." << last << " j=" << j;
          ASSERT_TRUE(allowed || j < all.begin || j >= all.end) << first << ".." << last << " i=" << i << " j=" << j;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Grid, KeyRanges,
                         testing::Combine(testing::Bool(), testing::Values(-1, 0, 2), testing::Values(-1, 0, 3),
                                          testing::Values(0), testing::Values(-1, 0, 3, 9)));
INSTANTIATE_TEST_SUITE_P(Past, KeyRanges,
                         testing::Combine(testing::Bool(), testing::Values(-1, 0, 2), testing::Values(-1, 0, 3),
                                          testing::Values(4), testing::Values(-1)));
constexpr int64_t kWidest = std::numeric_limits<int64_t>::max();
INSTANTIATE_TEST_SUITE_P(WindowsOfAnyWidth, KeyRanges,
                         testing::Combine(testing::Bool(), testing::Values(-1, 2, kWidest),
                                          testing::Values(-1, 3, kWidest - 8, kWidest), testing::Values(0),
                                          testing::Values(-1, 0, 3, 9)));

}  // namespace
}  // namespace flashonnx

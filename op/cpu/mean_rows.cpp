#include "op/cpu/mean_rows.h"

#include <algorithm>
#include <limits>

#include "op/core/key_range.h"
#include "op/cpu/convert.h"
#include "op/cpu/rows.h"

namespace flashonnx::cpu {
namespace {

constexpr int64_t kColumns = 64;  // summed at a time

// One query head; only its rows without a key cost more than a look.
template <typename T>
class MeanRows {
 public:
  MeanRows(const Problem& problem, int64_t b, int64_t h) : p_(problem), b_(b), h_(h), keys_(valid_keys(problem, b)) {}

  void write() const {
    const float* lse = p_.lse + (b_ * p_.q_num_heads + h_) * p_.q_sequence_length;
    const auto lacks_keys = [&](int64_t i) { return lse[i] == -std::numeric_limits<float>::infinity(); };
    int64_t first = 0;
    while (first < p_.q_sequence_length && !lacks_keys(first)) ++first;
    if (first == p_.q_sequence_length || keys_ == 0) return;
    for (int64_t column = 0; column < p_.v_head_size; column += kColumns) {
      const int64_t columns = std::min(kColumns, p_.v_head_size - column);
      double means[kColumns];
      compute_means(column, columns, means);
      for (int64_t i = first; i < p_.q_sequence_length; ++i) {
        if (!lacks_keys(i)) continue;
        char* y = row(p_.y, p_.dtype, b_, h_, i);
        for (int64_t d = 0; d < columns; ++d) store(p_.dtype, y, column + d, means[d]);
      }
    }
  }

 private:
  void compute_means(int64_t first, int64_t columns, double* means) const {
    std::fill_n(means, columns, 0.0);
    for (int64_t j = 0; j < keys_; ++j) {
      const char* v = cached_row(p_.past_value, p_.v, p_.past_sequence_length, p_.dtype, b_, h_ / p_.group_size(), j);
      const auto* values = reinterpret_cast<const T*>(v) + first;
      for (int64_t d = 0; d < columns; ++d) means[d] += static_cast<double>(values[d]);
    }
    for (int64_t d = 0; d < columns; ++d) means[d] /= static_cast<double>(keys_);
  }

  const Problem& p_;
  const int64_t b_, h_, keys_;
};

template <typename T>
void write_typed(const Problem& problem, const Parallel& parallel) {
  parallel(problem.batch_size * problem.q_num_heads,
           [&](int64_t head) { MeanRows<T>(problem, head / problem.q_num_heads, head % problem.q_num_heads).write(); });
}

}  // namespace

void write_mean_rows(const Problem& problem, const Parallel& parallel) {
  switch (problem.dtype) {
    case DType::kDouble:
      return write_typed<double>(problem, parallel);
    case DType::kFloat16:
      return write_typed<Half>(problem, parallel);
    case DType::kBFloat16:
      return write_typed<BFloat16>(problem, parallel);
    default:
      return write_typed<float>(problem, parallel);
  }
}

}  // namespace flashonnx::cpu

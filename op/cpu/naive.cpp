#include "op/cpu/naive.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "op/core/key_range.h"
#include "op/cpu/convert.h"
#include "op/cpu/rows.h"

namespace flashonnx::cpu {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

// One query row of a problem whose tensors hold T: scores, then their softmax, then its product with V.
template <typename T>
class Row {
 public:
  Row(const Problem& problem, const KeyLimits& limits, int64_t b, int64_t h, int64_t i, std::vector<double>& scores)
      : p_(problem), b_(b), h_(h), i_(i), offset_(limits.offset), allowed_(limits.row(i)), scores_(scores) {}

  void compute() {
    multiply_by_keys();
    keep_if(QkOutput::kScores);
    apply_softcap();
    keep_if(QkOutput::kAfterSoftcap);
    apply_bias_and_mask();
    keep_if(QkOutput::kAfterMask);
    softmax();
    keep_if(QkOutput::kProbabilities);
    multiply_by_values();
  }

 private:
  int64_t keys() const { return p_.total_sequence_length(); }
  int64_t kv_head() const { return h_ / p_.group_size(); }
  const T* cached(const Input& past, const Input& fresh, int64_t j) const {
    return reinterpret_cast<const T*>(cached_row(past, fresh, p_.past_sequence_length, p_.dtype, b_, kv_head(), j));
  }
  int64_t row_index() const { return (b_ * p_.q_num_heads + h_) * p_.q_sequence_length + i_; }

  void multiply_by_keys() {
    const auto* q = reinterpret_cast<const T*>(row(p_.q, p_.dtype, b_, h_, i_));
    for (int64_t j = 0; j < keys(); ++j) {
      const T* k = cached(p_.past_key, p_.k, j);
      double sum = 0;
      for (int64_t d = 0; d < p_.head_size; ++d) sum += static_cast<double>(q[d]) * static_cast<double>(k[d]);
      scores_[static_cast<size_t>(j)] = sum * p_.scale;
    }
  }

  void apply_softcap() {
    if (p_.softcap <= 0) return;
    for (double& score : scores_) score = p_.softcap * std::tanh(score / p_.softcap);
  }

  // A disallowed key's score is -infinity whatever it was, so that one that is NaN or infinite does no harm.
  void apply_bias_and_mask() {
    for (int64_t j = 0; j < keys(); ++j) {
      double& score = scores_[static_cast<size_t>(j)];
      const double bias = j >= allowed_.begin && j < allowed_.end ? bias_of(j) : kNever;
      score = bias == kNever ? kNever : score + bias;
    }
  }

  double bias_of(int64_t j) const {
    double bias = 0;
    if (p_.alibi_slopes != nullptr) {
      const double slope = p_.alibi_slopes[b_ * p_.alibi_batch_stride + h_];
      bias = -slope * static_cast<double>(std::abs(i_ + offset_ - j));
    }
    if (p_.mask) {
      const Mask& mask = p_.mask;
      bias +=
          mask_bias(mask, b_ * mask.batch_stride + h_ * mask.head_stride + i_ * mask.row_stride + j * mask.key_stride);
    }
    return bias;
  }

  // A row with no allowed key has no probabilities: all 0, never 0/0.
  void softmax() {
    double largest = kNever;
    for (double score : scores_) largest = score > largest || std::isnan(score) ? score : largest;
    const bool dead = largest == kNever;
    const double sink = p_.sinks != nullptr ? p_.sinks[h_] : kNever;
    const double base = dead ? 0 : std::max(largest, sink);
    double sum = std::exp(sink - base);
    for (double& score : scores_) sum += score = std::exp(score - base);
    if (!dead) {
      for (double& score : scores_) score /= sum;
    }
    if (p_.lse != nullptr) p_.lse[row_index()] = static_cast<float>(dead ? kNever : base + std::log(sum));
  }

  void multiply_by_values() {
    std::vector<double> sums(static_cast<size_t>(p_.v_head_size), 0.0);
    for (int64_t j = 0; j < keys(); ++j) {
      const double probability = scores_[static_cast<size_t>(j)];
      if (probability == 0) continue;  // what padding holds is nobody's business, were it NaN
      const T* v = cached(p_.past_value, p_.v, j);
      for (int64_t d = 0; d < p_.v_head_size; ++d)
        sums[static_cast<size_t>(d)] += probability * static_cast<double>(v[d]);
    }
    char* y = row(p_.y, p_.dtype, b_, h_, i_);
    for (int64_t d = 0; d < p_.v_head_size; ++d) store(p_.dtype, y, d, sums[static_cast<size_t>(d)]);
  }

  void keep_if(QkOutput mode) const {
    if (p_.qk_matmul_output == nullptr || p_.qk_matmul_output_mode != mode) return;
    for (int64_t j = 0; j < keys(); ++j) {
      store(p_.dtype, p_.qk_matmul_output, row_index() * keys() + j, scores_[static_cast<size_t>(j)]);
    }
  }

  const Problem& p_;
  const int64_t b_, h_, i_;
  const int64_t offset_;
  const KeyRange allowed_;
  std::vector<double>& scores_;
};

template <typename T>
Status run_typed(const Problem& problem, const Parallel& parallel) {
  // Tensors without rows may have any number of heads, and no memory would limit it.
  const int64_t heads = problem.q_sequence_length == 0 ? 0 : problem.batch_size * problem.q_num_heads;
  std::atomic<bool> out_of_memory{false};
  parallel(heads, [&](int64_t head) {
    const int64_t b = head / problem.q_num_heads;
    const int64_t h = head % problem.q_num_heads;
    const KeyLimits limits = key_limits(problem, b);
    try {
      std::vector<double> scores(static_cast<size_t>(problem.total_sequence_length()));
      for (int64_t i = 0; i < problem.q_sequence_length; ++i) Row<T>(problem, limits, b, h, i, scores).compute();
    } catch (const std::bad_alloc&) {
      out_of_memory = true;  // no exception may cross the caller's thread pool
    }
  });
  if (out_of_memory) return Status::error("no memory for a row of scores");
  return {};
}

}  // namespace

Status run_naive(const Problem& problem, const Parallel& parallel) {
  switch (problem.dtype) {
    case DType::kFloat:
      return run_typed<float>(problem, parallel);
    case DType::kDouble:
      return run_typed<double>(problem, parallel);
    case DType::kFloat16:
      return run_typed<Half>(problem, parallel);
    case DType::kBFloat16:
      return run_typed<BFloat16>(problem, parallel);
    default:
      return Status::error("no CPU kernel for element type " + std::to_string(static_cast<int>(problem.dtype)));
  }
}

}  // namespace flashonnx::cpu

#include "tests/op/cpu/plain_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "op/core/key_range.h"
#include "op/cpu/convert.h"
#include "op/cpu/rows.h"

namespace flashonnx::testing {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

std::vector<float> values(DType dtype, const void* data, int64_t count) {
  std::vector<float> floats(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) floats[static_cast<size_t>(i)] = static_cast<float>(cpu::load(dtype, data, i));
  return floats;
}

float bias_of(const Problem& p, const KeyLimits& limits, int64_t b, int64_t h, int64_t i, int64_t j) {
  const KeyRange range = limits.row(i);
  if (j < range.begin || j >= range.end) return kNever;
  float bias = 0;
  if (p.alibi_slopes != nullptr) {
    const float slope = p.alibi_slopes[b * p.alibi_batch_stride + h];
    bias -= slope * static_cast<float>(std::abs(i + limits.offset - j));
  }
  if (p.mask) {
    bias += static_cast<float>(cpu::mask_bias(
        p.mask, b * p.mask.batch_stride + h * p.mask.head_stride + i * p.mask.row_stride + j * p.mask.key_stride));
  }
  return bias;
}

// Keys and values of one KV head, (key, column).
struct KvHead {
  std::vector<std::vector<float>> k, v;
};

KvHead read_kv_head(const Problem& p, int64_t b, int64_t kv_head) {
  KvHead head;
  for (int64_t j = 0; j < p.total_sequence_length(); ++j) {
    const int64_t past = p.past_sequence_length;
    head.k.push_back(values(p.dtype, cpu::cached_row(p.past_key, p.k, past, p.dtype, b, kv_head, j), p.head_size));
    head.v.push_back(values(p.dtype, cpu::cached_row(p.past_value, p.v, past, p.dtype, b, kv_head, j), p.v_head_size));
  }
  return head;
}

float score_of(const Problem& p, const std::vector<float>& q, const std::vector<float>& k) {
  float score = 0;
  for (size_t d = 0; d < q.size(); ++d) score += q[d] * k[d];
  score *= static_cast<float>(p.scale);
  const auto cap = static_cast<float>(p.softcap);
  return cap > 0 ? cap * std::tanh(score / cap) : score;
}

void run_row(const Problem& p, const KvHead& head, const KeyLimits& limits, int64_t b, int64_t h, int64_t i) {
  const auto keys = static_cast<size_t>(p.total_sequence_length());
  const std::vector<float> q = values(p.dtype, cpu::row(p.q, p.dtype, b, h, i), p.head_size);
  std::vector<float> scores(keys);
  float m = kNever;
  for (size_t j = 0; j < keys; ++j) {
    scores[j] = score_of(p, q, head.k[j]) + bias_of(p, limits, b, h, i, static_cast<int64_t>(j));
    m = std::max(m, scores[j]);
  }
  const bool dead = m == kNever;
  const float sink = p.sinks != nullptr ? p.sinks[h] : kNever;
  const float base = dead ? 0.0f : std::max(m, sink);
  float sum = std::exp(sink - base);
  for (float& score : scores) sum += score = std::exp(score - base);
  std::vector<float> y(static_cast<size_t>(p.v_head_size), 0.0f);
  for (size_t j = 0; j < keys; ++j) {
    for (size_t d = 0; d < y.size(); ++d) y[d] += scores[j] * head.v[j][d];
  }
  char* out = cpu::row(p.y, p.dtype, b, h, i);
  for (size_t d = 0; d < y.size(); ++d) {
    cpu::store(p.dtype, out, static_cast<int64_t>(d), dead ? 0.0f : y[d] / sum);
  }
  p.lse[(b * p.q_num_heads + h) * p.q_sequence_length + i] = dead ? kNever : base + std::log(sum);
}

}  // namespace

void run_plain_attention(const Problem& p) {
  for (int64_t b = 0; b < p.batch_size; ++b) {
    const KeyLimits limits = key_limits(p, b);
    for (int64_t kv_head = 0; kv_head < p.kv_num_heads; ++kv_head) {
      const KvHead head = read_kv_head(p, b, kv_head);
      for (int64_t g = 0; g < p.group_size(); ++g) {
        const int64_t h = kv_head * p.group_size() + g;
        for (int64_t i = 0; i < p.q_sequence_length; ++i) run_row(p, head, limits, b, h, i);
      }
    }
  }
}

}  // namespace flashonnx::testing

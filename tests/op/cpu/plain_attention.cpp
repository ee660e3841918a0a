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

float value(DType dtype, const void* data, int64_t index) { return static_cast<float>(cpu::load(dtype, data, index)); }

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

void run_row(const Problem& p, const KeyLimits& limits, int64_t b, int64_t h, int64_t i) {
  const int64_t keys = p.total_sequence_length();
  const int64_t kv_head = h / p.group_size();
  std::vector<float> scores(static_cast<size_t>(keys));
  const char* q = cpu::row(p.q, p.dtype, b, h, i);
  float m = kNever;
  for (int64_t j = 0; j < keys; ++j) {
    const char* k = cpu::cached_row(p.past_key, p.k, p.past_sequence_length, p.dtype, b, kv_head, j);
    float score = 0;
    for (int64_t d = 0; d < p.head_size; ++d) score += value(p.dtype, q, d) * value(p.dtype, k, d);
    score *= static_cast<float>(p.scale);
    if (p.softcap > 0) {
      const auto cap = static_cast<float>(p.softcap);
      score = cap * std::tanh(score / cap);
    }
    score += bias_of(p, limits, b, h, i, j);
    scores[static_cast<size_t>(j)] = score;
    m = std::max(m, score);
  }
  const bool dead = m == kNever;
  const float sink = p.sinks != nullptr ? p.sinks[h] : kNever;
  const float base = dead ? 0.0f : std::max(m, sink);
  float sum = std::exp(sink - base);
  for (float& score : scores) sum += score = std::exp(score - base);
  std::vector<float> y(static_cast<size_t>(p.v_head_size), 0.0f);
  for (int64_t j = 0; j < keys; ++j) {
    const char* v = cpu::cached_row(p.past_value, p.v, p.past_sequence_length, p.dtype, b, kv_head, j);
    for (int64_t d = 0; d < p.v_head_size; ++d) {
      y[static_cast<size_t>(d)] += scores[static_cast<size_t>(j)] * value(p.dtype, v, d);
    }
  }
  char* out = cpu::row(p.y, p.dtype, b, h, i);
  for (int64_t d = 0; d < p.v_head_size; ++d) {
    cpu::store(p.dtype, out, d, dead ? 0.0f : y[static_cast<size_t>(d)] / sum);
  }
  p.lse[(b * p.q_num_heads + h) * p.q_sequence_length + i] = dead ? kNever : base + std::log(sum);
}

}  // namespace

void run_plain_attention(const Problem& p) {
  for (int64_t b = 0; b < p.batch_size; ++b) {
    const KeyLimits limits = key_limits(p, p.nonpad_kv_seqlen != nullptr ? p.nonpad_kv_seqlen[b] : 0);
    for (int64_t h = 0; h < p.q_num_heads; ++h) {
      for (int64_t i = 0; i < p.q_sequence_length; ++i) run_row(p, limits, b, h, i);
    }
  }
}

}  // namespace flashonnx::testing

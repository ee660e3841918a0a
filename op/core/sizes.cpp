#include "op/core/sizes.h"

namespace flashonnx {
namespace {

using contract::DimRule;
using contract::kSizes;
using contract::ShapeRule;
using contract::SizeRule;

bool is_known(int64_t size) { return size >= 0; }

std::string to_string(const DimRule& rule) {
  std::string text = kSizes[rule.factors[0]].name;
  if (rule.factors[1] >= 0) text += std::string("*") + kSizes[rule.factors[1]].name;
  return text;
}

}  // namespace

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + (is_known(shape[i]) ? std::to_string(shape[i]) : "?");
  }
  return text + ")";
}

std::string to_string(const ShapeRule& rule) {
  std::string text = "(";
  for (int i = 0; i < rule.rank; ++i) text += (i ? ", " : "") + to_string(rule.dims[i]);
  return text + ")";
}

std::string to_string(const contract::TensorRule& rule) {
  std::string text;
  for (int i = 0; i < rule.num_shapes; ++i) text += (i ? " or " : "") + to_string(rule.shapes[i]);
  return text;
}

std::string to_string(const Subject& subject) {
  const std::string kind = subject.kind;
  return *subject.name == '\0' ? kind : kind + " '" + subject.name + "'";
}

Status Sizes::set(int size, int64_t value, const Subject& source) {
  const SizeRule& rule = kSizes[size];
  Entry& entry = entries_[static_cast<size_t>(size)];
  if (!is_known(value)) {
    if (entry.value == kUnknownSize) entry = {value, source};
    return {};
  }
  if (value < rule.min || value > contract::kMaxSize) {
    return Status::error(std::string(rule.name) + " is " + std::to_string(value) +
                         "; allowed: " + std::to_string(rule.min) + " to " + std::to_string(contract::kMaxSize));
  }
  if (is_known(entry.value) && entry.value != value) {
    return Status::error(std::string(rule.name) + " is " + std::to_string(value) + ", but " +
                         std::to_string(entry.value) + " by " + to_string(entry.source));
  }
  if (!is_known(entry.value)) entry = {value, source};
  return {};
}

Status Sizes::read(const ShapeRule& rule, const Shape& shape, const Subject& source) {
  for (size_t i = 0; i < shape.size(); ++i) {
    const int* factors = rule.dims[i].factors;
    if (factors[1] < 0) {
      Status status = set(factors[0], shape[i], source);
      if (!status.ok()) return status;
      continue;
    }
    const int64_t factor = get(factors[0]);
    if (factor <= 0 || (!is_known(shape[i]) && factor != 1)) continue;
    if (is_known(shape[i]) && shape[i] % factor != 0) {
      return Status::error("its dimension " + std::to_string(i) + " must be a multiple of " + kSizes[factors[0]].name +
                           " (" + std::to_string(factor) + ")");
    }
    Status status = set(factors[1], factor == 1 ? shape[i] : shape[i] / factor, source);
    if (!status.ok()) return status;
  }
  return {};
}

Status Sizes::check_broadcast(const ShapeRule& rule, const Shape& shape) const {
  const Shape target = this->shape(rule);
  const size_t skipped = target.size() - shape.size();
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t have = shape[i];
    const int64_t want = target[skipped + i];
    if (!is_known(have) || !is_known(want) || have == 1 || have == want) continue;
    const bool is_last = i + 1 == shape.size();
    if (is_last && have < want) continue;
    return Status::error("its dimension " + std::to_string(i) + " is " + std::to_string(have) + "; allowed: 1 or " +
                         (is_last ? "at most " : "") + to_string(rule.dims[skipped + i]) + " (" + std::to_string(want) +
                         ")");
  }
  return {};
}

Status Sizes::check_relations() const {
  for (int size = 0; size < contract::kNumSizes; ++size) {
    const SizeRule& rule = kSizes[size];
    const int64_t value = get(size);
    if (is_known(value) && value > contract::kMaxSize) {
      return Status::error(std::string(rule.name) + " is " + std::to_string(value) + "; allowed: at most " +
                           std::to_string(contract::kMaxSize));
    }
    if (rule.multiple_of < 0) continue;
    const int64_t divisor = get(rule.multiple_of);
    if (is_known(value) && divisor > 0 && value % divisor != 0) {
      return Status::error(std::string(rule.name) + " is " + std::to_string(value) + "; allowed: a multiple of " +
                           kSizes[rule.multiple_of].name + " (" + std::to_string(divisor) + ")");
    }
  }
  return {};
}

int64_t Sizes::get(int size) const {
  const SizeRule& rule = kSizes[size];
  if (rule.sum[0] < 0) return entries_[static_cast<size_t>(size)].value;
  const int64_t a = get(rule.sum[0]);
  const int64_t b = get(rule.sum[1]);
  if (a == 0) return b;
  if (b == 0) return a;
  return is_known(a) && is_known(b) ? a + b : kUnknownSize;
}

int64_t Sizes::dim(const DimRule& rule) const {
  const int64_t a = get(rule.factors[0]);
  if (rule.factors[1] < 0) return a;
  const int64_t b = get(rule.factors[1]);
  if (a == 1) return b;
  if (b == 1) return a;
  return is_known(a) && is_known(b) ? a * b : kUnknownSize;
}

Shape Sizes::shape(const ShapeRule& rule) const {
  Shape shape;
  for (int i = 0; i < rule.rank; ++i) shape.push_back(dim(rule.dims[i]));
  return shape;
}

}  // namespace flashonnx

#include "op/core/check.h"

#include <cmath>
#include <string>

namespace flashonnx {
namespace {

using contract::AttributeRule;
using contract::kAttributes;
using contract::kExclusions;
using contract::kInputs;
using contract::kOutputs;
using contract::kTypes;
using contract::ShapeRule;
using contract::Size;
using contract::TensorRule;
using contract::TypeRule;

bool has(const Node& node, int input) { return node.inputs[static_cast<size_t>(input)].has_value(); }

const TensorDesc& desc(const Node& node, int input) { return *node.inputs[static_cast<size_t>(input)]; }

Subject the_input(int input) { return {"input", kInputs[input].name}; }
Subject the_output(int output) { return {"output", kOutputs[output].name}; }
Subject the_attribute(const AttributeRule& rule) { return {"attribute", rule.name}; }

const char* name_of(DType type) {
  switch (type) {
    case DType::kFloat:
      return "float";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
    case DType::kFloat16:
      return "float16";
    case DType::kDouble:
      return "double";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kUndefined:
      break;
  }
  return "of another type";
}

Status check_presence(const Node& node) {
  for (int i = 0; i < contract::kNumInputs; ++i) {
    const TensorRule& rule = kInputs[i];
    if (!rule.optional && !has(node, i)) return Status::error(to_string(the_input(i)) + " is missing");
    if (rule.with >= 0 && has(node, i) && !has(node, rule.with)) {
      return Status::error(to_string(the_input(i)) + " is given without " + to_string(the_input(rule.with)) +
                           "; give both or neither");
    }
  }
  for (int i = 0; i < contract::kNumOutputs; ++i) {
    const TensorRule& rule = kOutputs[i];
    const auto asked = [&](int output) { return node.outputs[static_cast<size_t>(output)]; };
    if (rule.with >= 0 && asked(i) && !asked(rule.with)) {
      return Status::error(to_string(the_output(i)) + " is asked for without " + to_string(the_output(rule.with)) +
                           "; ask for both or neither");
    }
  }
  for (const contract::Exclusion& rule : kExclusions) {
    if (!has(node, rule.input)) continue;
    const auto other = static_cast<size_t>(rule.other);
    if (rule.other_is_output ? node.outputs[other] : node.inputs[other].has_value()) {
      const Subject excluded = rule.other_is_output ? the_output(rule.other) : the_input(rule.other);
      return Status::error(to_string(the_input(rule.input)) + " and " + to_string(excluded) +
                           " exclude each other; use one of them");
    }
  }
  return {};
}

// The element type of T: Q's, or where that is not known yet, of any other tensor of type T.
DType type_of_t(const Node& node) {
  for (int i = 0; i < contract::kNumInputs; ++i) {
    if (kInputs[i].type != contract::Type::kT || !has(node, i)) continue;
    if (desc(node, i).dtype != DType::kUndefined) return desc(node, i).dtype;
  }
  return DType::kUndefined;
}

bool is_allowed(const TypeRule& rule, DType type) {
  for (int i = 0; i < rule.count; ++i) {
    if (rule.allowed[i] == type) return true;
  }
  return false;
}

std::string allowed_types(const TypeRule& rule, DType t) {
  std::string text;
  for (int i = 0; i < rule.count; ++i) text += (i ? ", " : "") + std::string(name_of(rule.allowed[i]));
  if (rule.or_t) text += std::string(" or ") + name_of(t) + " (that of Q)";
  return text;
}

Status check_dtypes(const Node& node) {
  const DType t = type_of_t(node);
  for (int i = 0; i < contract::kNumInputs; ++i) {
    if (!has(node, i)) continue;
    const DType type = desc(node, i).dtype;
    const TypeRule& rule = kTypes[kInputs[i].type];
    if (type == DType::kUndefined) continue;
    if (!is_allowed(rule, type) && !(rule.or_t && (type == t || t == DType::kUndefined))) {
      return Status::error(to_string(the_input(i)) + " is " + name_of(type) + "; allowed: " + allowed_types(rule, t));
    }
    if (kInputs[i].type == contract::Type::kT && type != t) {
      return Status::error(to_string(the_input(i)) + " is " + name_of(type) + "; allowed: " + name_of(t) +
                           ", that of Q");
    }
  }
  return {};
}

std::string number(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (!text.empty() && text.back() == '.') text.pop_back();
  return text;
}

Status attribute_error(const AttributeRule& rule, double value, const std::string& allowed) {
  return Status::error(to_string(the_attribute(rule)) + " is " + number(value) + "; allowed: " + allowed);
}

Status check_attribute(const AttributeRule& rule, double value) {
  if (!std::isfinite(value)) return attribute_error(rule, value, "finite numbers");
  if (rule.has_min && value < rule.min) return attribute_error(rule, value, number(rule.min) + " or more");
  std::string allowed;
  for (int i = 0; i < rule.num_allowed; ++i) {
    if (static_cast<double>(rule.allowed[i]) == value) return {};
    allowed += (i ? ", " : "") + std::to_string(rule.allowed[i]);
  }
  return rule.num_allowed ? attribute_error(rule, value, allowed) : Status();
}

// Whether an attribute that belongs to one rank of Q is there exactly with that rank.
Status check_with_rank(const Node& node, const AttributeRule& rule, bool given) {
  if (rule.with_rank == 0 || !desc(node, contract::Input::kQ).has_shape) return {};
  const int rank = static_cast<int>(desc(node, contract::Input::kQ).dims.size());
  if (given == (rank == rule.with_rank)) return {};
  return Status::error(to_string(the_attribute(rule)) + (given ? " is given" : " is missing") + ", and Q has rank " +
                       std::to_string(rank) + "; allowed: given with rank " + std::to_string(rule.with_rank) +
                       ", absent with any other");
}

// An attribute's value, if it has one: of its own, or by default.
template <typename T>
std::optional<T> value_of(const T& attribute) {
  return attribute;
}
template <typename T>
std::optional<T> value_of(const std::optional<T>& attribute) {
  return attribute;
}

Status read_attributes(const Node& node, Sizes* sizes) {
  Status status;
  for_each_attribute(node.attributes, [&](int index, const auto& member) {
    if (!status.ok()) return;
    const AttributeRule& rule = kAttributes[index];
    const auto value = value_of(member);
    status = check_with_rank(node, rule, value.has_value());
    if (status.ok() && value) status = check_attribute(rule, static_cast<double>(*value));
    if (!status.ok() || !value || rule.size < 0) return;
    status = sizes->set(rule.size, static_cast<int64_t>(*value), the_attribute(rule));
  });
  return status;
}

const ShapeRule* shape_rule(const TensorRule& rule, size_t rank) {
  for (int i = 0; i < rule.num_shapes; ++i) {
    if (static_cast<size_t>(rule.shapes[i].rank) == rank) return &rule.shapes[i];
  }
  return nullptr;
}

Status check_rank(const Node& node, int input) {
  const TensorRule& rule = kInputs[input];
  const size_t rank = desc(node, input).dims.size();
  if (rule.broadcast) {
    if (rank >= 1 && rank <= static_cast<size_t>(rule.shapes[0].rank)) return {};
    return Status::error("allowed: rank 1 to " + std::to_string(rule.shapes[0].rank));
  }
  if (!shape_rule(rule, rank)) return Status::error("allowed: " + to_string(rule));
  if (rule.same_rank_as < 0 || !has(node, rule.same_rank_as)) return {};
  const TensorDesc& other = desc(node, rule.same_rank_as);
  if (!other.has_shape || other.dims.size() == rank) return {};
  return Status::error("allowed: rank " + std::to_string(other.dims.size()) + ", that of " +
                       kInputs[rule.same_rank_as].name);
}

Status read_shape(const Node& node, int input, Sizes* sizes) {
  const TensorRule& rule = kInputs[input];
  const Shape& shape = desc(node, input).dims;
  Status status = check_rank(node, input);
  if (status.ok()) {
    status = rule.broadcast ? sizes->check_broadcast(rule.shapes[0], shape)
                            : sizes->read(*shape_rule(rule, shape.size()), shape, the_input(input));
  }
  if (status.ok()) return status;
  return Status::error(to_string(the_input(input)) + " has shape " + to_string(shape) + "; " + status.message());
}

// Broadcast tensors come last: they say nothing of sizes and need them all.
Status read_shapes(const Node& node, Sizes* sizes) {
  for (const bool broadcast : {false, true}) {
    for (int i = 0; i < contract::kNumInputs; ++i) {
      if (kInputs[i].broadcast != broadcast || !has(node, i) || !desc(node, i).has_shape) continue;
      Status status = read_shape(node, i, sizes);
      if (!status.ok()) return status;
    }
    if (broadcast) break;
    if (!has(node, contract::Input::kPastKey)) {
      Status status = sizes->set(Size::kPastSequenceLength, 0, {"absence of past_key"});
      if (!status.ok()) return status;
    }
  }
  return sizes->check_relations();
}

// The rank of an input, or where it is not known, the rank that the given attributes belong to; 0: they tell nothing.
size_t rank_of(const Node& node, int input) {
  if (has(node, input) && desc(node, input).has_shape) return desc(node, input).dims.size();
  int rank = 0;
  for_each_attribute(node.attributes, [&](int index, const auto& member) {
    if (kAttributes[index].with_rank > 0 && value_of(member)) rank = kAttributes[index].with_rank;
  });
  return static_cast<size_t>(rank);
}

}  // namespace

Status check_node(const Node& node, Sizes* sizes) {
  Status status = check_presence(node);
  if (status.ok()) status = check_dtypes(node);
  if (status.ok()) status = read_attributes(node, sizes);
  if (status.ok()) status = read_shapes(node, sizes);
  return status;
}

TensorDesc infer_output(const Node& node, const Sizes& sizes, int index) {
  const TensorRule& rule = kOutputs[index];
  TensorDesc output;
  output.dtype = rule.type == contract::Type::kT ? type_of_t(node) : kTypes[rule.type].allowed[0];
  const ShapeRule* shape = rule.same_rank_as < 0 ? nullptr : shape_rule(rule, rank_of(node, rule.same_rank_as));
  output.dims = sizes.shape(shape ? *shape : rule.shapes[0]);
  return output;
}

}  // namespace flashonnx

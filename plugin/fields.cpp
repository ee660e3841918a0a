#include "plugin/fields.h"

#include <cstdio>
#include <cstring>
#include <type_traits>

namespace flashonnx::trt {
namespace {

using contract::AttributeRule;
using contract::kAttributes;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <typename Member>
constexpr bool kIsFloat = std::is_same_v<Member, double> || std::is_same_v<Member, std::optional<double>>;

std::string named(const char* name) { return std::string("attribute '") + name + "'"; }

template <typename T>
T element(const PluginField& field, int32_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(field.data) + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

// A number of any of the types that ONNX parsers and our own serialisation use for a float or for an int.
template <typename Number>
Status read_number(const PluginField& field, Number* number) {
  constexpr bool kWantsFloat = std::is_same_v<Number, double>;
  if (field.length == 1 && field.data != nullptr) {
    switch (field.type) {
      case PluginFieldType::kFLOAT32:
        if constexpr (kWantsFloat) return *number = static_cast<double>(element<float>(field, 0)), Status();
        break;
      case PluginFieldType::kFLOAT64:
        if constexpr (kWantsFloat) return *number = element<double>(field, 0), Status();
        break;
      case PluginFieldType::kINT32:
        if constexpr (!kWantsFloat) return *number = element<int32_t>(field, 0), Status();
        break;
      case PluginFieldType::kINT64:
        if constexpr (!kWantsFloat) return *number = element<int64_t>(field, 0), Status();
        break;
      default:
        break;
    }
  }
  return Status::error(named(field.name) + " is of another type; allowed: " + (kWantsFloat ? "a float" : "an int"));
}

Status read_indices(const PluginField& field, int32_t count, std::vector<int32_t>* indices) {
  const std::string allowed = "; allowed: ascending ints from 0 to " + std::to_string(count - 1);
  if (field.type != PluginFieldType::kINT32 || field.length < 1 || field.data == nullptr) {
    return Status::error(named(field.name) + " is of another type" + allowed);
  }
  std::vector<int32_t> values;
  for (int32_t i = 0; i < field.length; ++i) {
    const int32_t value = element<int32_t>(field, i);
    if (value < 0 || value >= count || (i > 0 && value <= values.back())) {
      return Status::error(named(field.name) + " has " + std::to_string(value) + " at index " + std::to_string(i) +
                           allowed);
    }
    values.push_back(value);
  }
  *indices = std::move(values);
  return {};
}

Status read_flag(const PluginField& field, bool* flag) {
  int64_t value = 0;
  Status status = read_number(field, &value);
  if (status.ok() && value != 0 && value != 1) {
    return Status::error(named(field.name) + " is " + std::to_string(value) + "; allowed: 0, 1");
  }
  if (status.ok()) *flag = value == 1;
  return status;
}

Status read_attribute(const PluginField& field, Attributes* attributes) {
  Status status;
  for_each_attribute(*attributes, [&](int index, auto& member) {
    if (std::strcmp(field.name, kAttributes[index].name) != 0) return;
    std::conditional_t<kIsFloat<std::decay_t<decltype(member)>>, double, int64_t> value{};
    status = read_number(field, &value);
    if (status.ok()) member = value;
  });
  return status;
}

Status read_field(const PluginField& field, Parameters* parameters) {
  Layout& layout = parameters->layout;
  if (std::strcmp(field.name, contract::kPresentInputs) == 0) {
    return read_indices(field, contract::kNumInputs, &layout.inputs);
  }
  if (std::strcmp(field.name, contract::kPresentOutputs) == 0) {
    return read_indices(field, contract::kNumOutputs, &layout.outputs);
  }
  if (std::strcmp(field.name, contract::kPackedQkv) == 0) return read_flag(field, &layout.packed_qkv);
  return read_attribute(field, &parameters->attributes);
}

// Calls visit(rule, value) for each attribute that has a value.
template <typename Visitor>
void for_each_value(const Attributes& attributes, Visitor&& visit) {
  for_each_attribute(attributes, [&](int index, const auto& member) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(member)>>) {
      visit(kAttributes[index], member);
    } else if (member) {
      visit(kAttributes[index], *member);
    }
  });
}

std::string to_string(const std::vector<int32_t>& indices) {
  std::string text;
  for (const int32_t index : indices) text += (text.empty() ? "" : ",") + std::to_string(index);
  return "[" + text + "]";
}

}  // namespace

Status read_fields(const nvinfer1::PluginFieldCollection& fields, Parameters* parameters) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    Status status = read_field(fields.fields[i], parameters);
    if (!status.ok()) return status;
  }
  Sizes sizes;
  return check_node(node_of_attributes(parameters->attributes), &sizes);
}

std::vector<PluginField> list_fields() {
  std::vector<PluginField> fields;
  for (const AttributeRule& rule : kAttributes) {
    fields.emplace_back(rule.name, nullptr, rule.is_float ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32, 1);
  }
  fields.emplace_back(contract::kPresentInputs, nullptr, PluginFieldType::kINT32, 1);
  fields.emplace_back(contract::kPresentOutputs, nullptr, PluginFieldType::kINT32, 1);
  fields.emplace_back(contract::kPackedQkv, nullptr, PluginFieldType::kINT32, 1);
  return fields;
}

SerializedFields::SerializedFields(const Parameters& parameters) : layout_(parameters.layout) {
  for_each_value(parameters.attributes, [this](const AttributeRule& rule, auto value) {
    if constexpr (std::is_same_v<decltype(value), double>) {
      fields_.emplace_back(rule.name, &floats_.emplace_back(value), PluginFieldType::kFLOAT64, 1);
    } else {
      fields_.emplace_back(rule.name, &ints_.emplace_back(value), PluginFieldType::kINT64, 1);
    }
  });
  const auto add_indices = [this](const char* name, const std::vector<int32_t>& indices) {
    if (indices.empty()) return;
    fields_.emplace_back(name, indices.data(), PluginFieldType::kINT32, static_cast<int32_t>(indices.size()));
  };
  add_indices(contract::kPresentInputs, layout_.inputs);
  add_indices(contract::kPresentOutputs, layout_.outputs);
  if (layout_.packed_qkv)
    fields_.emplace_back(contract::kPackedQkv, &ints_.emplace_back(1), PluginFieldType::kINT64, 1);
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

std::string to_string(const Parameters& parameters) {
  std::string text;
  for_each_value(parameters.attributes, [&text](const AttributeRule& rule, auto value) {
    char number[40];  // every double survives %.17g
    if constexpr (std::is_same_v<decltype(value), double>) {
      std::snprintf(number, sizeof(number), "%.17g", value);
    } else {
      std::snprintf(number, sizeof(number), "%lld", static_cast<long long>(value));
    }
    text += std::string(rule.name) + "=" + number + " ";
  });
  if (!parameters.layout.inputs.empty()) {
    text += contract::kPresentInputs + ("=" + to_string(parameters.layout.inputs)) + " ";
  }
  if (parameters.layout.packed_qkv) text += std::string(contract::kPackedQkv) + "=1 ";
  return text + contract::kPresentOutputs + "=" + to_string(parameters.layout.outputs);
}

}  // namespace flashonnx::trt

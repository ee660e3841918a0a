#include "op/ort/attributes.h"

#include <string>
#include <type_traits>

namespace flashonnx::ort {
namespace {

bool succeeded(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return true;
  api->ReleaseStatus(status);
  return false;
}

// Where a kernel finds attributes: one getter a type, which fails alike for absent ones and those of another type.
struct KernelSource {
  const OrtApi* api;
  const OrtKernelInfo* info;

  bool get(const char* name, int64_t* value) const {
    return succeeded(api, api->KernelInfoGetAttribute_int64(info, name, value));
  }
  bool get(const char* name, float* value) const {
    return succeeded(api, api->KernelInfoGetAttribute_float(info, name, value));
  }
  bool has_list_or_text(const char* name) const {
    size_t size = 0;
    return succeeded(api, api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) ||
           succeeded(api, api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
           succeeded(api, api->KernelInfoGetAttributeArray_float(info, name, nullptr, &size));
  }
};

struct InferenceSource {
  const OrtApi* api;
  const OrtShapeInferContext* context;

  bool get(const char* name, int64_t* value) const { return get(name, ORT_OP_ATTR_INT, value, sizeof(*value)); }
  bool get(const char* name, float* value) const { return get(name, ORT_OP_ATTR_FLOAT, value, sizeof(*value)); }
  bool has_list_or_text(const char*) const { return false; }  // reported when the kernel is made

  bool get(const char* name, OrtOpAttrType type, void* value, size_t size) const {
    const OrtOpAttr* attribute = nullptr;
    if (!succeeded(api, api->ShapeInferContext_GetAttribute(context, name, &attribute)) || !attribute) return false;
    size_t written = 0;
    return succeeded(api, api->ReadOpAttr(attribute, type, value, size, &written));
  }
};

template <typename Wanted, typename Other, typename Source, typename Member>
Status read(const Source& source, const contract::AttributeRule& rule, Member* member) {
  Wanted value{};
  if (source.get(rule.name, &value)) {
    *member = value;
    return {};
  }
  Other other{};
  if (!source.get(rule.name, &other) && !source.has_list_or_text(rule.name)) return {};
  return Status::error(std::string("attribute '") + rule.name +
                       "' is of another type; allowed: " + (rule.is_float ? "a float" : "an int"));
}

template <typename Source>
Status read_all(const Source& source, Attributes* attributes) {
  Status status;
  for_each_attribute(*attributes, [&](int index, auto& member) {
    if (!status.ok()) return;
    const contract::AttributeRule& rule = contract::kAttributes[index];
    using Member = std::decay_t<decltype(member)>;
    constexpr bool kIsFloat = std::is_same_v<Member, double> || std::is_same_v<Member, std::optional<double>>;
    using Wanted = std::conditional_t<kIsFloat, float, int64_t>;
    using Other = std::conditional_t<kIsFloat, int64_t, float>;
    status = read<Wanted, Other>(source, rule, &member);
  });
  return status;
}

}  // namespace

Status read_attributes(const OrtApi* api, const OrtKernelInfo* info, Attributes* attributes) {
  return read_all(KernelSource{api, info}, attributes);
}

Status read_attributes(const OrtApi* api, const OrtShapeInferContext* context, Attributes* attributes) {
  return read_all(InferenceSource{api, context}, attributes);
}

}  // namespace flashonnx::ort

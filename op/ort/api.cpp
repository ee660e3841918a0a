#include "op/ort/api.h"

#include <algorithm>
#include <cstdlib>

namespace flashonnx::ort {
namespace {

// The first with KernelContext_GetScratchBuffer.
static_assert(ORT_API_VERSION >= 18, "ONNX Runtime's headers are too old");

// Before 1.28, shape inference that sets an optional output which a node does not have ends the process.
constexpr uint32_t kMinMinorVersion = 28;

// "1.32.0" -> 32. The API's version is the minor version; a later major version is taken to have every API.
uint32_t minor_version(const std::string& version) {
  if (version.rfind("1.", 0) != 0) return ORT_API_VERSION;
  return static_cast<uint32_t>(std::strtoul(version.c_str() + 2, nullptr, 10));
}

}  // namespace

Status find_api(const OrtApiBase* base, Api* api) {
  const std::string runtime = base->GetVersionString();
  const uint32_t minor = minor_version(runtime);
  if (minor < kMinMinorVersion) {
    return Status::error("ONNX Runtime " + runtime + " is too old; allowed: 1." + std::to_string(kMinMinorVersion) +
                         " or later");
  }
  // Asking for a newer API than the runtime has makes it complain on stderr.
  const uint32_t version = std::min<uint32_t>(ORT_API_VERSION, minor);
  const OrtApi* functions = base->GetApi(version);
  if (functions == nullptr) return Status::error("ONNX Runtime " + runtime + " has no API " + std::to_string(version));
  *api = {functions, version};
  return {};
}

Status from_ort(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return {};
  Status result = Status::error(api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  return result;
}

OrtStatus* to_ort(const OrtApi* api, const std::string& where, const Status& status) {
  if (status.ok()) return nullptr;
  return api->CreateStatus(ORT_INVALID_ARGUMENT, (where + ": " + status.message()).c_str());
}

Status read_tensor_info(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, TensorDesc* desc) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Status status = from_ort(api, api->GetTensorElementType(info, &type));
  if (!status.ok()) return status;
  size_t rank = 0;
  status = from_ort(api, api->GetDimensionsCount(info, &rank));
  if (!status.ok()) return status;
  desc->dtype = static_cast<DType>(type);
  desc->dims.resize(rank);
  return from_ort(api, api->GetDimensions(info, desc->dims.data(), rank));
}

}  // namespace flashonnx::ort

#include "op/ort/api.h"

namespace flashonnx::ort {
namespace {

// The first with OrtCustomOp::InferOutputShapeFn.
constexpr uint32_t kMinApiVersion = 17;
static_assert(ORT_API_VERSION >= kMinApiVersion, "ONNX Runtime's headers are too old");

}  // namespace

Status find_api(const OrtApiBase* base, Api* api) {
  for (uint32_t version = ORT_API_VERSION; version >= kMinApiVersion; --version) {
    if (const OrtApi* functions = base->GetApi(version)) {
      *api = {functions, version};
      return {};
    }
  }
  return Status::error(std::string("ONNX Runtime ") + base->GetVersionString() +
                       " is too old for flashonnx; allowed: 1.17 or later");
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

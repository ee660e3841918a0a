// ONNX Runtime's C API without its C++ wrapper: that one throws, and binds a library to the version of its headers.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

#include "op/core/check.h"
#include "op/core/status.h"

namespace flashonnx::ort {

// The newest API that both these headers and the running ONNX Runtime know.
struct Api {
  const OrtApi* functions = nullptr;
  uint32_t version = 0;

  const OrtApi* operator->() const { return functions; }
};

Status find_api(const OrtApiBase* base, Api* api);

// Takes ownership of `status`.
Status from_ort(const OrtApi* api, OrtStatus* status);

// nullptr if `status` is fine. `where` is put in front of the message.
OrtStatus* to_ort(const OrtApi* api, const std::string& where, const Status& status);

struct TensorInfoDeleter {
  const OrtApi* api;
  void operator()(OrtTensorTypeAndShapeInfo* info) const { api->ReleaseTensorTypeAndShapeInfo(info); }
};
using TensorInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, TensorInfoDeleter>;

// Element type and dimensions, -1 where unknown.
Status read_tensor_info(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, TensorDesc* desc);

}  // namespace flashonnx::ort

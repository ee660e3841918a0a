// The op as ONNX Runtime registers it; one object for each execution provider that has a kernel.
#pragma once

#include "op/ort/api.h"

namespace flashonnx::ort {

// What differs between execution providers.
struct Kernel {
  const char* execution_provider;
  OrtStatusPtr(ORT_API_CALL* create)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatusPtr(ORT_API_CALL* compute)(void* kernel, OrtKernelContext*);
  void(ORT_API_CALL* destroy)(void* kernel);
};

struct FlashAttentionOp : OrtCustomOp {
  FlashAttentionOp(const Api& api, const Kernel& kernel);

  Api api;
  Kernel kernel;
};

}  // namespace flashonnx::ort

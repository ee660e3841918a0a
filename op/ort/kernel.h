// What surrounds the kernel of any execution provider: its node, and ONNX Runtime's callbacks.
#pragma once

#include <memory>
#include <string>

#include "op/ort/custom_op.h"
#include "op/ort/node.h"

namespace flashonnx::ort {

// ONNX Runtime's callbacks for a class `K` with K(api), init(info), compute(context) const, api() and node().
template <typename K>
struct Callbacks {
  static OrtStatusPtr ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                                          void** kernel) {
    std::string where = contract::kOpType;
    const Status status = guarded([&] {
      auto fresh = std::make_unique<K>(api);
      Status made = fresh->init(info);
      where = fresh->node().where();
      if (made.ok()) *kernel = fresh.release();
      return made;
    });
    return to_ort(api, where, status);
  }

  static OrtStatusPtr ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
    const K& self = *static_cast<K*>(kernel);
    const Status status = guarded([&] { return self.compute(context); });
    return status.ok() ? nullptr : to_ort(self.api(), self.node().where(), status);
  }

  static void ORT_API_CALL destroy(void* kernel) { delete static_cast<K*>(kernel); }
};

template <typename K>
Kernel kernel_for(const char* execution_provider) {
  return {execution_provider, Callbacks<K>::create, Callbacks<K>::compute, Callbacks<K>::destroy};
}

}  // namespace flashonnx::ort

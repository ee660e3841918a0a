// A node's attributes, as kernel creation and shape inference each find them.
#pragma once

#include "op/core/check.h"
#include "op/core/status.h"
#include "op/ort/api.h"

namespace flashonnx::ort {

Status read_attributes(const OrtApi* api, const OrtKernelInfo* info, Attributes* attributes);
Status read_attributes(const OrtApi* api, const OrtShapeInferContext* context, Attributes* attributes);

}  // namespace flashonnx::ort

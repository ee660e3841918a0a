#pragma once

#include "op/ort/api.h"

namespace flashonnx::ort {

// OrtCustomOp::InferOutputShapeFn: types and shapes of all outputs, symbolic dimensions kept by name.
OrtStatusPtr ORT_API_CALL infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context);

}  // namespace flashonnx::ort

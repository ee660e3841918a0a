#pragma once

#include "op/ort/custom_op.h"

namespace flashonnx::ort {

// FlashAttention on ONNX Runtime's CUDA execution provider.
Kernel cuda_kernel();

}  // namespace flashonnx::ort

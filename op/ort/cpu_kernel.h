#pragma once

#include "op/ort/custom_op.h"

namespace flashonnx::ort {

// FlashAttention on ONNX Runtime's CPU execution provider.
Kernel cpu_kernel();

}  // namespace flashonnx::ort

// The C interface's way to the CUDA kernels, whose callers bring tensors and a stream but no workspace.
#pragma once

#include <string>

#include "op/capi/flashonnx.h"
#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::capi {

// Launches on the device's stream; the workspace comes from, and goes back to, that stream's memory pool.
Status run_on_gpu(const Problem& problem, const flashonnx_device& device);

// Says which kernel would run, with which tile and why.
Status plan_on_gpu(const Problem& problem, const flashonnx_device& device, std::string* text);

}  // namespace flashonnx::capi

// Where messages go: TensorRT's logger, and the error recorder of an execution context.
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "op/core/status.h"

namespace flashonnx::trt {

// Given to the library when it is loaded; nullptr ends its use.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log(nvinfer1::ILogger::Severity severity, const std::string& message) noexcept;

// Returns 0 if `status` is fine. Else its message goes to the logger, after the op's and the layer's names, and to
// `recorder` where there is one.
int32_t report_status(const std::string& layer, nvinfer1::IErrorRecorder* recorder, const Status& status);

// The same for what `body` returns; no exception comes out.
template <typename Body>
int32_t report(const std::string& layer, nvinfer1::IErrorRecorder* recorder, Body&& body) noexcept {
  try {
    return report_status(layer, recorder, guarded(body));
  } catch (...) {  // out of memory for a message
    return -1;
  }
}

}  // namespace flashonnx::trt

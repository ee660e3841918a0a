#include "plugin/log.h"

#include <atomic>
#include <cstdio>

#include "flashonnx/contract.h"

namespace flashonnx::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log(nvinfer1::ILogger::Severity severity, const std::string& message) noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = nullptr;
  try {
    if (finder != nullptr) logger = finder->findLogger();
  } catch (...) {  // findLogger is not noexcept
  }
  if (logger != nullptr) {
    logger->log(severity, message.c_str());
  } else {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
}

int32_t report_status(const std::string& layer, nvinfer1::IErrorRecorder* recorder, const Status& status) {
  if (status.ok()) return 0;
  const std::string where = contract::kOpType + (layer.empty() ? "" : " '" + layer + "'");
  const std::string message = where + ": " + status.message();
  log(nvinfer1::ILogger::Severity::kERROR, message);
  if (recorder != nullptr) recorder->reportError(nvinfer1::ErrorCode::kINVALID_ARGUMENT, message.c_str());
  return -1;
}

}  // namespace flashonnx::trt

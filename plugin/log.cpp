#include "plugin/log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>

#include "flashonnx/contract.h"

namespace flashonnx::trt {

// TensorRT 11.0 and TensorRT-RTX 1.5 gave ILogger and ILoggerFinder a base class, which moved their methods: the only
// interfaces of ours whose binary form is not the same in all versions. So both forms are declared here, and the
// version that runs tells which one it is. With external linkage: a compiler that knows all of a class's users finds
// that nobody implements these.
struct PlainForm {
  class Logger {
   public:
    virtual void log(nvinfer1::ILogger::Severity severity, const char* message) noexcept = 0;

   protected:
    virtual ~Logger() = default;
  };
  class Finder {
   public:
    virtual Logger* findLogger() = 0;

   protected:
    virtual ~Finder() = default;
  };
};

struct VersionedForm {
  class Logger : public nvinfer1::IVersionedInterface {
   public:
    virtual void log(nvinfer1::ILogger::Severity severity, const char* message) noexcept = 0;
  };
  class Finder : public nvinfer1::IVersionedInterface {
   public:
    virtual Logger* findLogger() = 0;
  };
};

namespace {

// TensorRT numbers versions 10000 * major + 100 * minor + patch; TensorRT-RTX began at 1 again.
constexpr bool is_versioned(int32_t version) {
  const bool is_rtx = version < 50000;
  return is_rtx ? version >= 10500 : version >= 110000;
}

constexpr int32_t kHeadersVersion = 10000 * NV_TENSORRT_MAJOR + 100 * NV_TENSORRT_MINOR;

// Of the library that `object`'s class is defined in; that of the headers if it is not TensorRT's.
int32_t version_of(const void* object) {
  const void* methods = *static_cast<const void* const*>(object);
  Dl_info info;
  if (dladdr(methods, &info) == 0 || info.dli_fname == nullptr) return kHeadersVersion;
  void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return kHeadersVersion;
  const auto get = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
  const int32_t version = get != nullptr ? get() : kHeadersVersion;
  dlclose(library);
  return version;
}

template <typename Form>
bool log_to(void* finder, nvinfer1::ILogger::Severity severity, const char* message) {
  auto* logger = static_cast<typename Form::Finder*>(finder)->findLogger();
  if (logger != nullptr) logger->log(severity, message);
  return logger != nullptr;
}

std::atomic<void*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log(nvinfer1::ILogger::Severity severity, const std::string& message) noexcept {
  void* finder = logger_finder;
  bool logged = false;
  try {
    if (finder != nullptr && is_versioned(version_of(finder))) {
      logged = log_to<VersionedForm>(finder, severity, message.c_str());
    } else if (finder != nullptr) {
      logged = log_to<PlainForm>(finder, severity, message.c_str());
    }
  } catch (...) {  // findLogger is not noexcept
  }
  if (!logged) std::fprintf(stderr, "%s\n", message.c_str());
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

// What the library exports: the two functions by which IPluginRegistry::loadLibrary and --dynamicPlugins find a plugin.
#include <NvInferRuntime.h>

#include "plugin/creator.h"
#include "plugin/log.h"

#define FLASHONNX_EXPORT extern "C" __attribute__((visibility("default")))

FLASHONNX_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { flashonnx::trt::set_logger_finder(finder); }

FLASHONNX_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static flashonnx::trt::FlashAttentionCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

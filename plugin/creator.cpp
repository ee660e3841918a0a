#include "plugin/creator.h"

#include <memory>
#include <string>
#include <utility>

#include "plugin/flash_attention_plugin.h"
#include "plugin/log.h"

namespace flashonnx::trt {
FlashAttentionCreator::FlashAttentionCreator()
    : fields_(list_fields()), collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* FlashAttentionCreator::createPlugin(const char* name,
                                                         const nvinfer1::PluginFieldCollection* fields,
                                                         nvinfer1::TensorRTPhase) noexcept {
  std::unique_ptr<FlashAttentionPlugin> plugin;
  const auto create = [&](const std::string& layer) {
    return report(layer, nullptr, [&] {
      Parameters parameters;
      Status status = fields != nullptr ? read_fields(*fields, &parameters) : Status();
      if (status.ok()) plugin = std::make_unique<FlashAttentionPlugin>(layer, std::move(parameters));
      return status;
    });
  };
  report("", nullptr, [&] { return create(name != nullptr ? name : ""), Status(); });
  return plugin.release();
}

const nvinfer1::PluginFieldCollection* FlashAttentionCreator::getFieldNames() noexcept { return &collection_; }
const char* FlashAttentionCreator::getPluginName() const noexcept { return contract::kOpType; }
const char* FlashAttentionCreator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* FlashAttentionCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

}  // namespace flashonnx::trt

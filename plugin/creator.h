// What TensorRT asks for a FlashAttention layer: by the ONNX parser for a node, by an engine file for a stored layer.
#pragma once

#include <NvInferRuntime.h>

#include <vector>

namespace flashonnx::trt {

class FlashAttentionCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  FlashAttentionCreator();

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace flashonnx::trt

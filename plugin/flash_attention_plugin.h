// FlashAttention as a TensorRT layer: IPluginV3 with its core, build and runtime capabilities in one object.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "op/cuda/flash_attention.h"
#include "plugin/fields.h"

namespace flashonnx::trt {

constexpr char kPluginVersion[] = "1";   // that of the ONNX parser's look-up for nodes without plugin_version
constexpr char kPluginNamespace[] = "";  // likewise, for nodes without plugin_namespace

class FlashAttentionPlugin final : public nvinfer1::IPluginV3,
                                   public nvinfer1::IPluginV3OneCore,
                                   public nvinfer1::IPluginV3OneBuild,
                                   public nvinfer1::IPluginV3OneRuntime {
 public:
  FlashAttentionPlugin(std::string name, Parameters parameters);
  FlashAttentionPlugin(const FlashAttentionPlugin& other);
  FlashAttentionPlugin& operator=(const FlashAttentionPlugin&) = delete;
  ~FlashAttentionPlugin() override = default;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t num_outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t num_outputs,
                             const nvinfer1::DataType* input_types, int32_t num_inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* in_out, int32_t num_inputs,
                                 int32_t num_outputs) noexcept override;
  int32_t getNbOutputs() const noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs,
                          int32_t num_outputs) const noexcept override;
  const char* getTimingCacheID() noexcept override;
  const char* getMetadataString() noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t num_inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t num_outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_desc, const nvinfer1::PluginTensorDesc* output_desc,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  // A problem without data, and how it is run on this context's device, which the first run finds out.
  struct Prepared {
    Problem problem;
    int32_t num_inputs = 0;
    std::optional<cuda::Plan> plan;
  };

  Status run(const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream);

  const std::string layer_;  // for messages
  const Parameters parameters_;
  const std::string description_;
  const SerializedFields fields_;
  nvinfer1::IErrorRecorder* recorder_ = nullptr;  // of the execution context that this object is attached to
  std::optional<Prepared> prepared_;
};

}  // namespace flashonnx::trt

#include "plugin/flash_attention_plugin.h"

#include <algorithm>
#include <utility>

#include "plugin/log.h"
#include "plugin/output_shapes.h"

namespace flashonnx::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// Stands for the data of tensors that are there: null means absent to a Problem. Empty tensors may come without data,
// and none has data before the run. Aligned as TensorRT's own memory is.
alignas(256) char placeholder;

void* or_placeholder(void* data) { return data != nullptr ? data : &placeholder; }
const void* or_placeholder(const void* data) { return data != nullptr ? data : &placeholder; }

TensorDesc describe(const PluginTensorDesc& desc) { return {to_dtype(desc.type), to_shape(desc.dims), true}; }

// A layer's data by the contract's indices; without `inputs` or `outputs`, only that they will be there.
void set_data(const Layout& layout, int32_t num_inputs, const void* const* inputs, void* const* outputs,
              Problem* problem) {
  TensorData data;
  for (int32_t i = 0; i < num_inputs; ++i) {
    const void* input = inputs != nullptr ? inputs[i] : nullptr;
    data.inputs[static_cast<size_t>(layout.input(i))] = or_placeholder(input);
  }
  for (size_t i = 0; i < layout.outputs.size(); ++i) {
    void* output = outputs != nullptr ? outputs[i] : nullptr;
    data.outputs[static_cast<size_t>(layout.outputs[i])] = or_placeholder(output);
  }
  if (!layout.packed_qkv) return flashonnx::set_data(data, problem);
  data.inputs[contract::Input::kK] = data.inputs[contract::Input::kV] = data.inputs[contract::Input::kQ];
  flashonnx::set_data(data, problem);
  view_packed_qkv(problem);
}

// An engine may be built where no GPU is, and may run on another than it was built on. More multiprocessors than any
// GPU has cost a few MiB of workspace; the two compute capabilities differ in their kernels.
constexpr cuda::Device kDevicesToBuildFor[] = {
    {0, 80, 256, 160 << 10, 0},
    {0, 90, 256, 227 << 10, 0},
};

}  // namespace

FlashAttentionPlugin::FlashAttentionPlugin(std::string name, Parameters parameters)
    : layer_(std::move(name)),
      parameters_(std::move(parameters)),
      description_(to_string(parameters_)),
      fields_(parameters_) {}

// What a context prepared for its shapes stays with that context.
FlashAttentionPlugin::FlashAttentionPlugin(const FlashAttentionPlugin& other)
    : nvinfer1::IPluginV3(other),
      nvinfer1::IPluginV3OneCore(other),
      nvinfer1::IPluginV3OneBuild(other),
      nvinfer1::IPluginV3OneRuntime(other),
      layer_(other.layer_),
      parameters_(other.parameters_),
      description_(other.description_),
      fields_(parameters_),
      recorder_(other.recorder_) {}

// IPluginV3

nvinfer1::IPluginCapability* FlashAttentionPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* FlashAttentionPlugin::clone() noexcept {
  std::unique_ptr<FlashAttentionPlugin> copy;
  report(layer_, recorder_, [&] {
    copy = std::make_unique<FlashAttentionPlugin>(*this);
    return Status();
  });
  return copy.release();
}

// IPluginV3OneCore

const char* FlashAttentionPlugin::getPluginName() const noexcept { return contract::kOpType; }
const char* FlashAttentionPlugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* FlashAttentionPlugin::getPluginNamespace() const noexcept { return kPluginNamespace; }

// IPluginV3OneBuild

int32_t FlashAttentionPlugin::getNbOutputs() const noexcept {
  return static_cast<int32_t>(parameters_.layout.outputs.size());
}

int32_t FlashAttentionPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t num_inputs,
                                              const DynamicPluginTensorDesc*, int32_t) noexcept {
  return report(layer_, recorder_, [&] {
    Node node;
    Status status = make_node(
        parameters_.layout, parameters_.attributes, num_inputs, [&](int32_t i) { return describe(in[i].desc); }, &node);
    Sizes sizes;
    return status.ok() ? check_node(node, &sizes) : status;
  });
}

int32_t FlashAttentionPlugin::getOutputDataTypes(DataType* output_types, int32_t, const DataType* input_types,
                                                 int32_t num_inputs) const noexcept {
  return report(layer_, recorder_, [&] {
    Node node;
    Status status = make_node(
        parameters_.layout, parameters_.attributes, num_inputs,
        [&](int32_t i) { return TensorDesc{to_dtype(input_types[i]), {}, false}; }, &node);
    Sizes sizes;
    if (status.ok()) status = check_node(node, &sizes);
    for (size_t i = 0; status.ok() && i < parameters_.layout.outputs.size(); ++i) {
      output_types[i] = to_tensorrt(infer_output(node, sizes, parameters_.layout.outputs[i]).dtype);
    }
    return status;
  });
}

int32_t FlashAttentionPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                                              const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                              int32_t, nvinfer1::IExprBuilder& builder) noexcept {
  return report(layer_, recorder_, [&] {
    return output_shapes(parameters_.layout, parameters_.attributes, inputs, num_inputs, builder, outputs);
  });
}

bool FlashAttentionPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* in_out,
                                                     int32_t num_inputs, int32_t) noexcept {
  const PluginTensorDesc& desc = in_out[position].desc;
  if (desc.format != TensorFormat::kLINEAR) return false;
  const contract::TensorRule* rule = parameters_.layout.rule(position, num_inputs);
  return rule != nullptr && is_allowed(*rule, to_dtype(desc.type), to_dtype(in_out[0].desc.type));
}

size_t FlashAttentionPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                              const DynamicPluginTensorDesc*, int32_t) const noexcept {
  int64_t bytes = 0;
  report(layer_, recorder_, [&] {
    Node node;
    Status status = make_node(
        parameters_.layout, parameters_.attributes, num_inputs,
        [&](int32_t i) { return TensorDesc{to_dtype(inputs[i].desc.type), to_shape(inputs[i].max), true}; }, &node);
    Problem largest;
    if (status.ok()) status = make_problem(node, &largest);
    if (!status.ok()) return status;
    set_data(parameters_.layout, num_inputs, nullptr, nullptr, &largest);
    for (const cuda::Device& device : kDevicesToBuildFor) {
      bytes = std::max(bytes, cuda::max_workspace_bytes(largest, device));
    }
    return status;
  });
  return static_cast<size_t>(bytes);
}

const char* FlashAttentionPlugin::getTimingCacheID() noexcept { return description_.c_str(); }
const char* FlashAttentionPlugin::getMetadataString() noexcept { return description_.c_str(); }

// IPluginV3OneRuntime

int32_t FlashAttentionPlugin::onShapeChange(const PluginTensorDesc* in, int32_t num_inputs, const PluginTensorDesc*,
                                            int32_t) noexcept {
  prepared_.reset();
  return report(layer_, recorder_, [&] {
    Node node;
    Status status = make_node(
        parameters_.layout, parameters_.attributes, num_inputs, [&](int32_t i) { return describe(in[i]); }, &node);
    Problem problem;
    if (status.ok()) status = make_problem(node, &problem);
    if (status.ok()) prepared_ = Prepared{problem, num_inputs, std::nullopt};
    return status;
  });
}

int32_t FlashAttentionPlugin::enqueue(const PluginTensorDesc*, const PluginTensorDesc*, const void* const* inputs,
                                      void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return report(layer_, recorder_, [&] { return run(inputs, outputs, workspace, stream); });
}

Status FlashAttentionPlugin::run(const void* const* inputs, void* const* outputs, void* workspace,
                                 cudaStream_t stream) {
  if (!prepared_) return Status::error("run before its shapes were told");
  Problem problem = prepared_->problem;
  set_data(parameters_.layout, prepared_->num_inputs, inputs, outputs, &problem);
  if (!prepared_->plan) {
    cuda::Device device;
    Status status = cuda::query_current_device(&device);
    if (!status.ok()) return status;
    prepared_->plan = cuda::plan(problem, device);
  }
  const cuda::Plan& plan = *prepared_->plan;
  return plan.status.ok() ? cuda::run(problem, plan, workspace, stream) : plan.status;
}

nvinfer1::IPluginV3* FlashAttentionPlugin::attachToContext(nvinfer1::IPluginResourceContext* context) noexcept {
  auto* copy = static_cast<FlashAttentionPlugin*>(clone());
  if (copy != nullptr && context != nullptr) copy->recorder_ = context->getErrorRecorder();
  return copy;
}

const nvinfer1::PluginFieldCollection* FlashAttentionPlugin::getFieldsToSerialize() noexcept {
  return fields_.collection();
}

}  // namespace flashonnx::trt

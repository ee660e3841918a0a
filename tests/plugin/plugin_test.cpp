// The plugin as TensorRT calls it, without TensorRT: fields there and back, types, formats, messages.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "plugin/creator.h"
#include "plugin/flash_attention_plugin.h"
#include "plugin/log.h"

namespace flashonnx::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

class Logger final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  Logger() { set_logger_finder(this); }
  ~Logger() override { set_logger_finder(nullptr); }
  void log(Severity, const char* message) noexcept override { last = message; }
  nvinfer1::ILogger* findLogger() override { return this; }

  std::string last;
};

std::unique_ptr<FlashAttentionPlugin> create(const std::vector<PluginField>& fields,
                                             TensorRTPhase phase = TensorRTPhase::kBUILD) {
  FlashAttentionCreator creator;
  const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  nvinfer1::IPluginV3* plugin = creator.createPlugin("layer", &collection, phase);
  return std::unique_ptr<FlashAttentionPlugin>(static_cast<FlashAttentionPlugin*>(plugin));
}

DynamicPluginTensorDesc tensor(DataType type, const Shape& dims, TensorFormat format = TensorFormat::kLINEAR) {
  DynamicPluginTensorDesc desc{};
  desc.desc.type = type;
  desc.desc.format = format;
  desc.desc.dims.nbDims = static_cast<int32_t>(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) desc.desc.dims.d[i] = dims[i];
  desc.min = desc.opt = desc.max = desc.desc.dims;
  return desc;
}

// Parameters as the ONNX parser hands them on: int32 and float32.
struct ParserFields {
  int32_t is_causal = 1;
  int32_t window = 5;
  float scale = 0.1F;
  std::array<int32_t, 5> inputs{0, 1, 2, 4, 5};
  std::array<int32_t, 3> outputs{0, 1, 2};

  std::vector<PluginField> list() const {
    return {{"is_causal", &is_causal, PluginFieldType::kINT32, 1},
            {"left_window_size", &window, PluginFieldType::kINT32, 1},
            {"scale", &scale, PluginFieldType::kFLOAT32, 1},
            {contract::kPresentInputs, inputs.data(), PluginFieldType::kINT32, 5},
            {contract::kPresentOutputs, outputs.data(), PluginFieldType::kINT32, 3}};
  }
};

TEST(Creator, ListsTheContractsAttributes) {
  FlashAttentionCreator creator;
  const nvinfer1::PluginFieldCollection* fields = creator.getFieldNames();
  ASSERT_EQ(fields->nbFields, contract::kNumAttributes + 3);
  for (int i = 0; i < contract::kNumAttributes; ++i) {
    EXPECT_STREQ(fields->fields[i].name, contract::kAttributes[i].name);
  }
  EXPECT_STREQ(creator.getPluginName(), contract::kOpType);
}

TEST(Creator, SerialisedLayersAreTheLayersThatWere) {
  const ParserFields fields;
  const auto built = create(fields.list());
  ASSERT_NE(built, nullptr);
  const nvinfer1::PluginFieldCollection* stored = built->getFieldsToSerialize();
  const auto loaded = create({stored->fields, stored->fields + stored->nbFields}, TensorRTPhase::kRUNTIME);
  ASSERT_NE(loaded, nullptr);
  const std::string told = built->getMetadataString();
  EXPECT_EQ(loaded->getMetadataString(), told);
  EXPECT_NE(told.find("scale=0.10000000149011612 "), std::string::npos) << told;
  EXPECT_NE(told.find("present_inputs=[0,1,2,4,5] present_outputs=[0,1,2]"), std::string::npos) << told;
  EXPECT_EQ(loaded->getNbOutputs(), 3);
}

TEST(Creator, TimingCacheTellsLayersApart) {
  ParserFields fields;
  const std::string causal = create(fields.list())->getTimingCacheID();
  fields.is_causal = 0;
  EXPECT_NE(create(fields.list())->getTimingCacheID(), causal);
}

TEST(Creator, RefusesWrongFieldsByName) {
  Logger logger;
  const float half = 0.5F;
  const int32_t two = 2;
  EXPECT_EQ(create({{"is_causal", &half, PluginFieldType::kFLOAT32, 1}}), nullptr);
  EXPECT_EQ(logger.last, "FlashAttention 'layer': attribute 'is_causal' is of another type; allowed: an int");
  EXPECT_EQ(create({{"is_causal", &two, PluginFieldType::kINT32, 1}}), nullptr);
  EXPECT_EQ(logger.last, "FlashAttention 'layer': attribute 'is_causal' is 2; allowed: 0, 1");
  EXPECT_EQ(create({{"scale", nullptr, PluginFieldType::kFLOAT32, 1}}), nullptr);
  EXPECT_EQ(logger.last, "FlashAttention 'layer': attribute 'scale' is of another type; allowed: a float");
}

TEST(Plugin, CopiesAreEqualAndApart) {
  const auto plugin = create(ParserFields().list());
  const std::unique_ptr<nvinfer1::IPluginV3> copies[] = {
      std::unique_ptr<nvinfer1::IPluginV3>(plugin->clone()),
      std::unique_ptr<nvinfer1::IPluginV3>(plugin->attachToContext(nullptr)),
  };
  for (const auto& copy : copies) {
    ASSERT_NE(copy, nullptr);
    auto* same = static_cast<FlashAttentionPlugin*>(copy.get());
    EXPECT_STREQ(same->getMetadataString(), plugin->getMetadataString());
    EXPECT_NE(same->getFieldsToSerialize(), plugin->getFieldsToSerialize());
  }
}

TEST(Plugin, HasEveryCapability) {
  const auto plugin = create({});
  for (const auto type : {nvinfer1::PluginCapabilityType::kCORE, nvinfer1::PluginCapabilityType::kBUILD,
                          nvinfer1::PluginCapabilityType::kRUNTIME}) {
    EXPECT_NE(plugin->getCapabilityInterface(type), nullptr);
  }
}

struct FormatCase {
  DataType q;
  DataType mask;
  bool accepted;
};

TEST(Plugin, TakesLinearTensorsOfTheContractsTypes) {
  const auto plugin = create({});
  const FormatCase cases[] = {
      {DataType::kHALF, DataType::kBOOL, true},   {DataType::kHALF, DataType::kHALF, true},
      {DataType::kBF16, DataType::kBF16, true},   {DataType::kFLOAT, DataType::kFLOAT, true},
      {DataType::kHALF, DataType::kFLOAT, false}, {DataType::kHALF, DataType::kINT32, false},
  };
  for (const FormatCase& c : cases) {
    const Shape shape{1, 2, 3, 8};
    const std::vector<DynamicPluginTensorDesc> in_out = {tensor(c.q, shape), tensor(c.q, shape), tensor(c.q, shape),
                                                         tensor(c.mask, {3, 3}), tensor(c.q, shape)};
    for (const int position : {0, 1, 2, 4}) {
      EXPECT_TRUE(plugin->supportsFormatCombination(position, in_out.data(), 4, 1)) << position;
    }
    EXPECT_EQ(plugin->supportsFormatCombination(3, in_out.data(), 4, 1), c.accepted);
  }
}

TEST(Plugin, RefusesOtherFormatsAndTypes) {
  const auto plugin = create({});
  const Shape shape{1, 2, 3, 8};
  const auto linear = tensor(DataType::kHALF, shape);
  const std::vector<DynamicPluginTensorDesc> packed = {tensor(DataType::kHALF, shape, TensorFormat::kCHW2)};
  EXPECT_FALSE(plugin->supportsFormatCombination(0, packed.data(), 3, 1));
  const std::vector<DynamicPluginTensorDesc> ints = {tensor(DataType::kINT32, shape)};
  EXPECT_FALSE(plugin->supportsFormatCombination(0, ints.data(), 3, 1));
  const std::vector<DynamicPluginTensorDesc> mixed = {linear, tensor(DataType::kFLOAT, shape)};
  EXPECT_FALSE(plugin->supportsFormatCombination(1, mixed.data(), 3, 1));
}

TEST(Plugin, OutputsHaveTheContractsTypes) {
  const std::array<int32_t, 2> outputs{contract::Output::kY, contract::Output::kLse};
  const auto plugin = create({{contract::kPresentOutputs, outputs.data(), PluginFieldType::kINT32, 2}});
  const DataType inputs[] = {DataType::kBF16, DataType::kBF16, DataType::kBF16};
  DataType types[2];
  ASSERT_EQ(plugin->getOutputDataTypes(types, 2, inputs, 3), 0);
  EXPECT_EQ(types[0], DataType::kBF16);
  EXPECT_EQ(types[1], DataType::kFLOAT);
}

TEST(Plugin, ShapesThatDoNotFitAreRefusedWithOurMessage) {
  Logger logger;
  const auto plugin = create({});
  const PluginTensorDesc inputs[] = {tensor(DataType::kHALF, {1, 4, 3, 8}).desc,
                                     tensor(DataType::kHALF, {1, 3, 3, 8}).desc,
                                     tensor(DataType::kHALF, {1, 3, 3, 8}).desc};
  EXPECT_NE(plugin->onShapeChange(inputs, 3, nullptr, 1), 0);
  EXPECT_EQ(logger.last, "FlashAttention 'layer': q_num_heads is 4; allowed: a multiple of kv_num_heads (3)");
}

// Q, K and V in one tensor, and a mask.
struct PackedFields {
  int32_t packed = 1;
  int32_t q_num_heads = 4;
  int32_t kv_num_heads = 2;
  std::array<int32_t, 2> inputs{contract::Input::kQ, contract::Input::kAttnMask};

  std::vector<PluginField> list() const {
    return {{contract::kPackedQkv, &packed, PluginFieldType::kINT32, 1},
            {"q_num_heads", &q_num_heads, PluginFieldType::kINT32, 1},
            {"kv_num_heads", &kv_num_heads, PluginFieldType::kINT32, 1},
            {contract::kPresentInputs, inputs.data(), PluginFieldType::kINT32, 2}};
  }
};

TEST(Plugin, TakesQAndKAndVInOneTensor) {
  const auto built = create(PackedFields().list());
  ASSERT_NE(built, nullptr);
  const nvinfer1::PluginFieldCollection* stored = built->getFieldsToSerialize();
  const auto plugin = create({stored->fields, stored->fields + stored->nbFields}, TensorRTPhase::kRUNTIME);
  ASSERT_NE(plugin, nullptr);
  EXPECT_STREQ(plugin->getMetadataString(), built->getMetadataString());
  const std::vector<DynamicPluginTensorDesc> in = {tensor(DataType::kHALF, {3, 10, 8 * 16}),
                                                   tensor(DataType::kBOOL, {3, 1, 1, 10})};
  EXPECT_TRUE(plugin->supportsFormatCombination(0, in.data(), 2, 1));
  EXPECT_TRUE(plugin->supportsFormatCombination(1, in.data(), 2, 1));
  EXPECT_EQ(plugin->configurePlugin(in.data(), 2, nullptr, 1), 0);
  const PluginTensorDesc shapes[] = {in[0].desc, in[1].desc};
  EXPECT_EQ(plugin->onShapeChange(shapes, 2, nullptr, 1), 0);
}

TEST(Plugin, ViewsOfOneTensorShowItsParts) {
  constexpr int64_t kBatches = 2, kRows = 3, kHeadSize = 8;
  PackedFields fields;
  Node node;
  node.attributes.q_num_heads = fields.q_num_heads;
  node.attributes.kv_num_heads = fields.kv_num_heads;
  const int64_t columns = (fields.q_num_heads + 2 * fields.kv_num_heads) * kHeadSize;
  node.inputs[contract::Input::kQ] = TensorDesc{DType::kFloat, {kBatches, kRows, columns}, true};
  node.outputs[contract::Output::kY] = true;
  ASSERT_TRUE(unpack_qkv(&node).ok());
  Problem problem;
  ASSERT_TRUE(make_problem(node, &problem).ok());
  EXPECT_EQ(problem.head_size, kHeadSize);
  std::vector<float> packed(static_cast<size_t>(kBatches * kRows * columns));
  for (size_t i = 0; i < packed.size(); ++i) packed[i] = static_cast<float>(i);
  problem.q.data = packed.data();
  view_packed_qkv(&problem);
  const std::pair<const flashonnx::Input*, int64_t> parts[] = {
      {&problem.q, 0},
      {&problem.k, problem.q_num_heads},
      {&problem.v, problem.q_num_heads + problem.kv_num_heads},
  };
  for (const auto& [view, first_head] : parts) {
    const int64_t heads = view == &problem.q ? problem.q_num_heads : problem.kv_num_heads;
    for (int64_t batch = 0; batch < kBatches; ++batch) {
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t head = 0; head < heads; ++head) {
          const auto* seen = static_cast<const float*>(view->data) + batch * view->batch_stride +
                             row * view->row_stride + head * view->head_stride;
          EXPECT_EQ(seen,
                    &packed[static_cast<size_t>((batch * kRows + row) * columns + (first_head + head) * kHeadSize)]);
        }
      }
    }
  }
}

TEST(Plugin, PackedTensorsOfOtherShapesAreRefusedWithOurMessage) {
  Logger logger;
  const PackedFields fields;
  const auto plugin = create(fields.list());
  const std::string prefix = "FlashAttention 'layer': attribute 'packed_qkv'";
  const std::string allowed =
      "; allowed: 3D, its last dimension a multiple of q_num_heads + 2*kv_num_heads, 8, "
      "that is known when the engine is built";
  const PluginTensorDesc mask = tensor(DataType::kBOOL, {3, 1, 1, 10}).desc;
  const std::pair<Shape, const char*> cases[] = {{{3, 10, 100}, "(3, 10, 100)"}, {{3, 8, 10, 16}, "(3, 8, 10, 16)"}};
  for (const auto& [shape, told] : cases) {
    const PluginTensorDesc inputs[] = {tensor(DataType::kHALF, shape).desc, mask};
    EXPECT_NE(plugin->onShapeChange(inputs, 2, nullptr, 1), 0);
    EXPECT_EQ(logger.last, prefix + ": input 'Q' has shape " + told + allowed);
  }
  const PluginTensorDesc three[] = {tensor(DataType::kHALF, {3, 10, 128}).desc,
                                    tensor(DataType::kHALF, {3, 10, 128}).desc,
                                    tensor(DataType::kHALF, {3, 10, 128}).desc};
  const auto unpacked = create({fields.list().front()});
  EXPECT_NE(unpacked->onShapeChange(three, 3, nullptr, 1), 0);
  EXPECT_EQ(logger.last, prefix + " goes with input 'Q', without 'K' and 'V', and with both numbers of heads");
  const int32_t two = 2;
  EXPECT_EQ(create({{contract::kPackedQkv, &two, PluginFieldType::kINT32, 1}}), nullptr);
  EXPECT_EQ(logger.last, prefix + " is 2; allowed: 0, 1");
}

TEST(Plugin, RunningBeforeShapesAreToldIsAnError) {
  Logger logger;
  const auto plugin = create({});
  EXPECT_NE(plugin->enqueue(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), 0);
  EXPECT_EQ(logger.last, "FlashAttention 'layer': run before its shapes were told");
}

}  // namespace
}  // namespace flashonnx::trt

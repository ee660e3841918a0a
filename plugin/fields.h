// A layer's parameters as TensorRT's plugin fields, which are named as the contract's attributes.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <string>
#include <vector>

#include "plugin/node.h"

namespace flashonnx::trt {

struct Parameters {
  Attributes attributes;
  Layout layout;
};

// From a node's attributes (build) or a serialised layer (run time). Checks types, names and the attributes' values.
Status read_fields(const nvinfer1::PluginFieldCollection& fields, Parameters* parameters);

// The names and types of all fields, without values.
std::vector<nvinfer1::PluginField> list_fields();

// The fields that tell `parameters`, with their data: what a serialised layer holds.
class SerializedFields {
 public:
  explicit SerializedFields(const Parameters& parameters);
  SerializedFields(const SerializedFields&) = delete;
  SerializedFields& operator=(const SerializedFields&) = delete;

  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

 private:
  std::deque<int64_t> ints_;  // a deque's elements stay where they are
  std::deque<double> floats_;
  Layout layout_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

// One line that tells `parameters`; equal lines, equal parameters.
std::string to_string(const Parameters& parameters);

}  // namespace flashonnx::trt

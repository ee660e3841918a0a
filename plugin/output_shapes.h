// The contract's output shapes as TensorRT's expressions, which say how dynamic dimensions follow from the inputs'.
#pragma once

#include <NvInferRuntime.h>

#include "plugin/node.h"

namespace flashonnx::trt {

// Dimensions of a layer's outputs, in `layout`'s order.
Status output_shapes(const Layout& layout, const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                     int32_t num_inputs, nvinfer1::IExprBuilder& builder, nvinfer1::DimsExprs* outputs);

}  // namespace flashonnx::trt

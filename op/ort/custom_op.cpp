#include "op/ort/custom_op.h"

#include "flashonnx/contract.h"
#include "op/ort/shape_inference.h"

namespace flashonnx::ort {
namespace {

const FlashAttentionOp& self(const OrtCustomOp* op) { return *static_cast<const FlashAttentionOp*>(op); }

OrtCustomOpInputOutputCharacteristic characteristic(const contract::TensorRule& rule) {
  return rule.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

void describe_op(OrtCustomOp* op) {
  op->GetName = [](const OrtCustomOp*) { return contract::kOpType; };
  op->GetExecutionProviderType = [](const OrtCustomOp* op) { return self(op).kernel.execution_provider; };
  op->GetStartVersion = [](const OrtCustomOp*) { return contract::kSinceVersion; };
  op->GetEndVersion = [](const OrtCustomOp*) { return 0x7fffffff; };
}

// Types are left to the op's own check: its message says more than ONNX Runtime's. Memory is the provider's own for
// every input: on a GPU the kernels read nonpad_kv_seqlen, sinks and slopes too, and the host reads nothing.
void describe_tensors(OrtCustomOp* op) {
  op->GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return contract::kNumInputs; };
  op->GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; };
  op->GetInputCharacteristic = [](const OrtCustomOp*, size_t i) { return characteristic(contract::kInputs[i]); };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return contract::kNumOutputs; };
  op->GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; };
  op->GetOutputCharacteristic = [](const OrtCustomOp*, size_t i) { return characteristic(contract::kOutputs[i]); };
  op->InferOutputShapeFn = infer_shapes;
}

// Asked for even by ops that have no variadic tensors.
void describe_variadic(OrtCustomOp* op) {
  op->GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op->GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
}

}  // namespace

FlashAttentionOp::FlashAttentionOp(const Api& api_, const Kernel& kernel_) : OrtCustomOp{}, api(api_), kernel(kernel_) {
  version = api.version;
  describe_op(this);
  describe_tensors(this);
  describe_variadic(this);
  CreateKernelV2 = kernel.create;
  KernelComputeV2 = kernel.compute;
  KernelDestroy = kernel.destroy;
}

}  // namespace flashonnx::ort

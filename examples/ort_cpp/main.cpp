// Runs a fused model in ONNX Runtime from C++: run_fused fused.onnx libflashonnx.so [size of symbolic dimensions]
//
// The one line that matters is RegisterCustomOpsLibrary; everything else is as with any model.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Tensor {
  std::vector<char> bytes;
  Ort::Value value{nullptr};
};

template <typename T>
void fill_with_ones(std::vector<char>* bytes, size_t count) {
  const std::vector<T> ones(count, T{1});
  bytes->resize(count * sizeof(T));
  std::memcpy(bytes->data(), ones.data(), bytes->size());
}

// Ones of the input's type, each symbolic dimension of `size`.
Tensor example_input(const Ort::Session& session, size_t index, int64_t size) {
  const Ort::TypeInfo type = session.GetInputTypeInfo(index);
  const auto info = type.GetTensorTypeAndShapeInfo();
  std::vector<int64_t> shape = info.GetShape();
  size_t count = 1;
  for (int64_t& dim : shape) {
    if (dim < 0) dim = size;
    count *= static_cast<size_t>(dim);
  }
  Tensor tensor;
  switch (info.GetElementType()) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      fill_with_ones<float>(&tensor.bytes, count);
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      fill_with_ones<int64_t>(&tensor.bytes, count);
      break;
    default:
      throw std::runtime_error("this example makes float and int64 inputs only");
  }
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  tensor.value = Ort::Value::CreateTensor(memory, tensor.bytes.data(), tensor.bytes.size(), shape.data(), shape.size(),
                                          info.GetElementType());
  return tensor;
}

void print(const std::string& name, const Ort::Value& output) {
  const auto info = output.GetTensorTypeAndShapeInfo();
  std::cout << name << ": [";
  const std::vector<int64_t> shape = info.GetShape();
  for (size_t i = 0; i < shape.size(); ++i) std::cout << (i ? ", " : "") << shape[i];
  std::cout << "]";
  if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && info.GetElementCount() > 0) {
    const float* data = output.GetTensorData<float>();
    const double sum = std::accumulate(data, data + info.GetElementCount(), 0.0);
    std::cout << ", mean " << sum / static_cast<double>(info.GetElementCount());
  }
  std::cout << "\n";
}

void run(const char* model, const char* library, int64_t size) {
  const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "flashonnx");
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, model, options);

  const Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;
  std::vector<const char*> input_names, output_names;
  const size_t num_inputs = session.GetInputCount();
  for (size_t i = 0; i < num_inputs; ++i) names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  for (size_t i = 0; i < names.size(); ++i) {
    (i < num_inputs ? input_names : output_names).push_back(names[i].c_str());
  }

  std::vector<Tensor> tensors;
  std::vector<Ort::Value> inputs;
  for (size_t i = 0; i < num_inputs; ++i) {
    tensors.push_back(example_input(session, i, size));
    inputs.push_back(std::move(tensors.back().value));
  }
  const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{}, input_names.data(), inputs.data(),
                                                      inputs.size(), output_names.data(), output_names.size());
  for (size_t i = 0; i < outputs.size(); ++i) print(output_names[i], outputs[i]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " fused.onnx libflashonnx.so [size of symbolic dimensions]\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argc > 3 ? std::atoll(argv[3]) : 2);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

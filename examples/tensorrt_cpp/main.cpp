// Runs an engine that holds FlashAttention layers: run_engine model.engine libflashonnx_trt.so
//
// The one line that matters is loadLibrary; everything else is as with any engine. Inputs are ones, of the shapes that
// the engine was tuned for.
#include <NvInferRuntime.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

class Logger final : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << message << "\n";
  }
};

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

template <typename Pointer>
Pointer* check(Pointer* made, const std::string& what) {
  if (made == nullptr) throw std::runtime_error(what);
  return made;
}

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};

struct Tensor {
  std::string name;
  Dims dims;
  DataType type;
  std::unique_ptr<void, Free> memory;
};

size_t count(const Dims& dims) {
  return std::accumulate(dims.d, dims.d + dims.nbDims, size_t{1},
                         [](size_t product, int64_t dim) { return product * static_cast<size_t>(dim); });
}

template <typename T>
std::vector<char> ones(size_t count, T one) {
  const std::vector<T> values(count, one);
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  return {bytes, bytes + count * sizeof(T)};
}

std::vector<char> ones(DataType type, size_t count) {
  switch (type) {
    case DataType::kFLOAT:
      return ones<float>(count, 1.0F);
    case DataType::kHALF:
      return ones<__half>(count, __float2half(1.0F));
    case DataType::kINT32:
      return ones<int32_t>(count, 1);
    case DataType::kINT64:
      return ones<int64_t>(count, 1);
    case DataType::kBOOL:
      return std::vector<char>(count, 1);
    default:
      throw std::runtime_error("this example makes float, half, int32, int64 and bool inputs only");
  }
}

Tensor make_tensor(const std::string& name, const Dims& dims, DataType type) {
  void* memory = nullptr;
  constexpr size_t kLargestElement = 8;
  check(cudaMalloc(&memory, count(dims) * kLargestElement + 1));
  return {name, dims, type, std::unique_ptr<void, Free>(memory)};
}

void print(const Tensor& output) {
  std::cout << output.name << ": [";
  for (int i = 0; i < output.dims.nbDims; ++i) std::cout << (i ? ", " : "") << output.dims.d[i];
  std::cout << "]";
  const size_t size = count(output.dims);
  if (output.type == DataType::kFLOAT || output.type == DataType::kHALF) {
    const bool is_half = output.type == DataType::kHALF;
    std::vector<float> values(size);
    std::vector<__half> halves(is_half ? size : 0);
    void* host = is_half ? static_cast<void*>(halves.data()) : values.data();
    check(cudaMemcpy(host, output.memory.get(), size * (is_half ? 2 : 4), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < halves.size(); ++i) values[i] = __half2float(halves[i]);
    std::cout << ", mean " << std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(size);
  }
  std::cout << "\n";
}

std::vector<char> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Inputs bound and filled; the shapes of outputs follow from those of inputs.
std::vector<Tensor> bind(const nvinfer1::ICudaEngine& engine, nvinfer1::IExecutionContext* context) {
  std::vector<Tensor> tensors;
  for (const auto mode : {nvinfer1::TensorIOMode::kINPUT, nvinfer1::TensorIOMode::kOUTPUT}) {
    for (int i = 0; i < engine.getNbIOTensors(); ++i) {
      const char* name = engine.getIOTensorName(i);
      if (engine.getTensorIOMode(name) != mode) continue;
      const bool is_input = mode == nvinfer1::TensorIOMode::kINPUT;
      const Dims dims = is_input ? engine.getProfileShape(name, 0, nvinfer1::OptProfileSelector::kOPT)
                                 : context->getTensorShape(name);
      tensors.push_back(make_tensor(name, dims, engine.getTensorDataType(name)));
      void* memory = tensors.back().memory.get();
      if (is_input) {
        const std::vector<char> values = ones(tensors.back().type, count(dims));
        check(cudaMemcpy(memory, values.data(), values.size(), cudaMemcpyHostToDevice));
        if (!context->setInputShape(name, dims)) throw std::runtime_error(std::string(name) + ": shape refused");
      }
      context->setTensorAddress(name, memory);
    }
  }
  return tensors;
}

void run(const char* engine_path, const char* plugin_path) {
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(
      check(nvinfer1::createInferRuntime(logger), "TensorRT does not start; is there an NVIDIA GPU?"));
  check(runtime->getPluginRegistry().loadLibrary(plugin_path), std::string(plugin_path) + ": cannot be loaded");

  const std::vector<char> plan = read_file(engine_path);
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(
      check(runtime->deserializeCudaEngine(plan.data(), plan.size()), std::string(engine_path) + ": is no engine"));
  const std::unique_ptr<nvinfer1::IExecutionContext> context(
      check(engine->createExecutionContext(), "no execution context"));

  const std::vector<Tensor> tensors = bind(*engine, context.get());
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  const bool queued = context->enqueueV3(stream);
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));
  if (!queued) throw std::runtime_error("the run failed");
  for (const Tensor& tensor : tensors) {
    if (engine->getTensorIOMode(tensor.name.c_str()) == nvinfer1::TensorIOMode::kOUTPUT) print(tensor);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " model.engine libflashonnx_trt.so\n";
    return 2;
  }
  try {
    run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

// The C interface as a foreign caller uses it: strides, messages, and calls from many threads and from a fork.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "flashonnx/contract.h"
#include "op/capi/flashonnx.h"
#include "op/capi/thread_pool.h"
#include "op/cpu/flash_attention.h"

namespace {

using flashonnx::contract::Input;
using flashonnx::contract::Output;

constexpr int32_t kFloat = 1, kBool = 9, kInt64 = 7;

// A tensor of floats and what C wants to know of it.
struct Tensor {
  explicit Tensor(std::vector<int64_t> shape) : dims(std::move(shape)) {
    int64_t size = 1;
    for (const int64_t dim : dims) size *= dim;
    for (int64_t i = 0; i < size; ++i) values.push_back(std::sin(static_cast<float>(i)));
    c = {values.data(), kFloat, static_cast<int32_t>(dims.size()), dims.data(), nullptr};
  }

  std::vector<int64_t> dims, strides;
  std::vector<float> values;
  flashonnx_tensor c;
};

// B 1, H 2, S 5, D 4.
struct Call {
  Call() {
    inputs[Input::kQ] = &q.c;
    inputs[Input::kK] = &k.c;
    inputs[Input::kV] = &v.c;
    outputs[Output::kY] = &y.c;
  }

  flashonnx_node node() const {
    return {inputs,
            outputs,
            attributes.data(),
            flashonnx::contract::kNumInputs,
            flashonnx::contract::kNumOutputs,
            static_cast<int32_t>(attributes.size())};
  }

  int32_t run() {
    const flashonnx_node n = node();
    return flashonnx_run(&n, &device, text, sizeof text);
  }

  int32_t plan() {
    const flashonnx_node n = node();
    return flashonnx_plan(&n, &device, text, sizeof text);
  }

  int32_t check() {
    const flashonnx_node n = node();
    return flashonnx_check(&n, text, sizeof text);
  }

  Tensor q{{1, 2, 5, 4}}, k{{1, 2, 5, 4}}, v{{1, 2, 5, 4}}, y{{1, 2, 5, 4}};
  const flashonnx_tensor* inputs[flashonnx::contract::kNumInputs] = {};
  const flashonnx_tensor* outputs[flashonnx::contract::kNumOutputs] = {};
  std::vector<flashonnx_attribute> attributes;
  flashonnx_device device{FLASHONNX_CPU, 0, 2, 0, nullptr};
  char text[512] = "";
};

#define EXPECT_MESSAGE(call, ...)                                                     \
  for (const char* part : {__VA_ARGS__}) {                                            \
    EXPECT_NE(std::string((call).text).find(part), std::string::npos) << (call).text; \
  }

TEST(CApi, StridedTensorsGiveWhatContiguousOnesGive) {
  Call contiguous;
  ASSERT_EQ(contiguous.run(), FLASHONNX_OK) << contiguous.text;
  // The same numbers with heads inside of rows, as PyTorch's transpose(1, 2) leaves them.
  Call strided;
  for (Tensor* tensor : {&strided.q, &strided.k, &strided.v, &strided.y}) {
    const std::vector<float> values = tensor->values;
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 5; ++i) {
        for (int64_t d = 0; d < 4; ++d) {
          tensor->values[static_cast<size_t>((i * 2 + h) * 4 + d)] = values[static_cast<size_t>((h * 5 + i) * 4 + d)];
        }
      }
    }
    tensor->strides = {40, 4, 8, 1};
    tensor->c.strides = tensor->strides.data();
  }
  ASSERT_EQ(strided.run(), FLASHONNX_OK) << strided.text;
  for (size_t h = 0; h < 2; ++h) {
    for (size_t i = 0; i < 5; ++i) {
      for (size_t d = 0; d < 4; ++d) {
        EXPECT_EQ(strided.y.values[(i * 2 + h) * 4 + d], contiguous.y.values[(h * 5 + i) * 4 + d]);
      }
    }
  }
}

TEST(CApi, ExpandedMaskIsReadThroughItsStrides) {
  Call plain, masked;
  ASSERT_EQ(plain.run(), FLASHONNX_OK) << plain.text;
  Tensor mask({1, 1, 5, 5});
  const int8_t allowed = 1;
  mask.strides = {0, 0, 0, 0};
  mask.c = {const_cast<int8_t*>(&allowed), kBool, 4, mask.dims.data(), mask.strides.data()};
  masked.inputs[Input::kAttnMask] = &mask.c;
  ASSERT_EQ(masked.run(), FLASHONNX_OK) << masked.text;
  EXPECT_EQ(plain.y.values, masked.y.values);
}

TEST(CApi, MessagesNameWhatIsWrongAndWhatIsAllowed) {
  Call call;
  call.attributes = {{"left_window_size", -2}};
  EXPECT_EQ(call.check(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "left_window_size", "-2", "allowed");
  call.attributes = {{"is_causal", 0.5}};
  EXPECT_EQ(call.check(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "is_causal", "integer");
  call.attributes = {{"is_casual", 1}};
  EXPECT_EQ(call.check(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "is_casual", "unknown");
  call.attributes.clear();

  Tensor wrong({1, 2, 5, 3});
  call.outputs[Output::kY] = &wrong.c;
  EXPECT_EQ(call.run(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'Y'", "(1, 2, 5, 3)", "(1, 2, 5, 4)");
  call.outputs[Output::kY] = nullptr;
  EXPECT_EQ(call.run(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'Y'", "missing");
  call.outputs[Output::kY] = &call.y.c;

  call.k.strides = {40, 20, 4, 2};
  call.k.c.strides = call.k.strides.data();
  EXPECT_EQ(call.run(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'K'", "strides");
  call.k.c.strides = nullptr;
  call.k.c.data = nullptr;
  EXPECT_EQ(call.run(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'K'", "no data");
  call.k.c.data = call.k.values.data();
  call.k.c.rank = -2;
  EXPECT_EQ(call.check(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'K'", "rank -2");
  call.k.c.rank = 3;
  EXPECT_EQ(call.check(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "'K'", "(1, 2, 5)");
  call.k.c.rank = 4;

  const int64_t lengths[] = {6};
  const int64_t one[] = {1};
  const flashonnx_tensor nonpad = {const_cast<int64_t*>(lengths), kInt64, 1, one, nullptr};
  call.inputs[Input::kNonpadKvSeqlen] = &nonpad;
  EXPECT_EQ(call.run(), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_MESSAGE(call, "nonpad_kv_seqlen", "6", "allowed");
}

TEST(CApi, ALongMessageIsCutWhole) {
  Call call;
  call.attributes = {{"is_casual", 1}};
  const flashonnx_node node = call.node();
  char text[12];
  std::memset(text, 'x', sizeof text);
  EXPECT_EQ(flashonnx_check(&node, text, sizeof text - 1), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(text), "FlashAtten");
  EXPECT_EQ(text[11], 'x');
  EXPECT_EQ(flashonnx_check(&node, nullptr, 0), FLASHONNX_INVALID_ARGUMENT);
}

TEST(CApi, DevicesThatAreNotThereAreRefused) {
  Call call;
  call.device.type = 77;
  EXPECT_EQ(call.run(), FLASHONNX_UNAVAILABLE);
  EXPECT_MESSAGE(call, "77", "allowed");
}

TEST(CApi, PlanNamesTheKernel) {
  Call call;
  const flashonnx_node node = call.node();
  setenv(flashonnx::cpu::kKernelVariable, "naive", 1);
  EXPECT_EQ(flashonnx_plan(&node, &call.device, call.text, sizeof call.text), FLASHONNX_OK);
  EXPECT_MESSAGE(call, "naive", "forced");
  setenv(flashonnx::cpu::kKernelVariable, "none", 1);
  EXPECT_EQ(flashonnx_plan(&node, &call.device, call.text, sizeof call.text), FLASHONNX_UNAVAILABLE);
  EXPECT_EQ(call.run(), FLASHONNX_UNAVAILABLE);
  unsetenv(flashonnx::cpu::kKernelVariable);
  EXPECT_EQ(flashonnx_plan(&node, &call.device, call.text, sizeof call.text), FLASHONNX_OK);
  EXPECT_MESSAGE(call, flashonnx::cpu::name(flashonnx::cpu::best_isa()));
}

TEST(CApi, OutputShapesFollowQ) {
  Call call;
  const flashonnx_node node = call.node();
  int64_t dims[4];
  int32_t rank = 0;
  ASSERT_EQ(flashonnx_output_shape(&node, Output::kLse, dims, &rank, call.text, sizeof call.text), FLASHONNX_OK);
  EXPECT_EQ(std::vector<int64_t>(dims, dims + rank), (std::vector<int64_t>{1, 2, 5}));
  call.q.c.rank = call.k.c.rank = call.v.c.rank = -1;
  EXPECT_EQ(flashonnx_output_shape(&node, Output::kY, dims, &rank, call.text, sizeof call.text), FLASHONNX_OK);
  EXPECT_EQ(std::vector<int64_t>(dims, dims + rank), (std::vector<int64_t>{-1, -1, -1, -1}));  // no q_num_heads: rank 4
  call.q.c.rank = call.k.c.rank = call.v.c.rank = 4;
  EXPECT_EQ(flashonnx_output_shape(&node, 9, dims, &rank, call.text, sizeof call.text), FLASHONNX_INVALID_ARGUMENT);
}

TEST(CApi, MultiplyAddsAreCounted) {
  int64_t done = -1, more = -1;
  ASSERT_EQ(flashonnx_multiply_add(0, 1, &done, nullptr, 0), FLASHONNX_OK);
  EXPECT_EQ(done, 0);
  ASSERT_EQ(flashonnx_multiply_add(1, 2, &done, nullptr, 0), FLASHONNX_OK);
  EXPECT_GE(done, 1);
  ASSERT_EQ(flashonnx_multiply_add(done + 1, 2, &more, nullptr, 0), FLASHONNX_OK);
  EXPECT_EQ(more, 2 * done);
  char text[100];
  EXPECT_EQ(flashonnx_multiply_add(-1, 1, &done, text, sizeof text), FLASHONNX_INVALID_ARGUMENT);
  EXPECT_NE(std::string(text).find("flops is -1; allowed"), std::string::npos) << text;
}

TEST(CApi, BuildInfoIsComplete) {
  char text[1024];
  ASSERT_EQ(flashonnx_build_info(text, sizeof text), FLASHONNX_OK);
  for (const char* key : {"version", "compiler", "cpu_kernels", "cpu_kernels_supported", "cpu_kernel", "cuda"}) {
    EXPECT_NE(std::string(text).find("\"" + std::string(key) + "\":"), std::string::npos) << text;
  }
}

TEST(ThreadPool, RunsEachTaskOnceForAnyNumberOfThreads) {
  for (const int threads : {0, 1, 2, 5, 3}) {
    for (const int64_t count : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      const flashonnx::PoolParallel parallel(threads);
      parallel(count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& times : runs) EXPECT_EQ(times, 1);
    }
  }
}

TEST(Plan, OfAGpuThatIsElsewhere) {
  Call call;
  call.device = {FLASHONNX_CUDA, 0, 0, 90, nullptr};
  EXPECT_EQ(call.plan(), FLASHONNX_OK);
  EXPECT_MESSAGE(call, "split, 16 x 128 tiles (the first choice)");
  call.device.compute_capability = 61;
  EXPECT_EQ(call.plan(), FLASHONNX_UNAVAILABLE);
  EXPECT_MESSAGE(call, "no GPU of compute capability 6.1 is known");
}

TEST(ThreadPool, ServesManyCallersAtOnce) {
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      const flashonnx::PoolParallel parallel(3);
      for (int round = 0; round < 200; ++round) parallel(20, [&](int64_t i) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 200 * 190);
}

TEST(ThreadPool, WorksInAForkedChild) {
  Call parent;
  ASSERT_EQ(parent.run(), FLASHONNX_OK);  // the workers exist
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // a child that waits for threads it does not have
    Call call;
    _exit(call.run() == FLASHONNX_OK && call.y.values == parent.y.values ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace

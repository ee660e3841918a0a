#include "op/capi/flashonnx.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "op/capi/node.h"
#include "op/capi/thread_pool.h"
#include "op/cpu/flash_attention.h"
#include "op/cpu/fma_peak.h"
#include "op/cuda/flash_attention.h"

namespace flashonnx::capi {
namespace {

struct Answer {
  int32_t code = FLASHONNX_OK;
  std::string text;
};

Answer invalid(const Status& status) {
  return {FLASHONNX_INVALID_ARGUMENT, std::string(contract::kOpType) + ": " + status.message()};
}

Answer unavailable(const Status& status) {
  return {FLASHONNX_UNAVAILABLE, std::string(contract::kOpType) + ": " + status.message()};
}

// Nothing that `body` throws may reach C.
template <typename Body>
int32_t reply(char* text, size_t text_size, const Body& body) noexcept {
  Answer answer;
  try {
    answer = body();
  } catch (const std::bad_alloc&) {
    answer.code = FLASHONNX_UNAVAILABLE;
    answer.text.assign("out of memory");  // short enough for the string's own buffer
  } catch (const std::exception& error) {
    if (text != nullptr && text_size > 0) std::snprintf(text, text_size, "%s", error.what());
    return FLASHONNX_UNAVAILABLE;
  }
  if (text != nullptr && text_size > 0) std::snprintf(text, text_size, "%s", answer.text.c_str());
  return answer.code;
}

Status check_device(const flashonnx_device& device) {
  if (device.type == FLASHONNX_CPU || device.type == FLASHONNX_CUDA) return {};
  return Status::error("device type " + std::to_string(device.type) + " is unknown; allowed: 1 (CPU), 2 (CUDA)");
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Workspace = std::unique_ptr<void, Free>;

Workspace allocate(int64_t bytes) {
  constexpr size_t kAlignment = 64;
  if (bytes == 0) return nullptr;
  const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return Workspace(memory);
}

Answer check(const flashonnx_node& from) {
  Node node;
  Problem problem;
  Status status = read_node(from, &node);
  if (status.ok()) status = make_problem(node, &problem);
  return status.ok() ? Answer{} : invalid(status);
}

Answer run_on_cpu(const flashonnx_node& from, const flashonnx_device& device) {
  Problem problem;
  Status status = read_problem(from, &problem);
  if (!status.ok()) return invalid(status);
  const cpu::Plan plan = cpu::plan(problem);
  if (!plan.status.ok()) return unavailable(plan.status);
  const Workspace workspace = allocate(plan.workspace_bytes);
  status = cpu::run(problem, plan, workspace.get(), PoolParallel(device.num_threads));
  return status.ok() ? Answer{} : unavailable(status);
}

Answer run_on_gpu(const flashonnx_node& from, const flashonnx_device& device) {
  Problem problem;
  Status status = read_device_problem(from, &problem);
  if (!status.ok()) return invalid(status);
  status = cuda::run_with_pool(problem, device.index, device.stream);
  return status.ok() ? Answer{} : unavailable(status);
}

Answer run(const flashonnx_node& from, const flashonnx_device& device) {
  const Status status = check_device(device);
  if (!status.ok()) return unavailable(status);
  return device.type == FLASHONNX_CUDA ? run_on_gpu(from, device) : run_on_cpu(from, device);
}

Answer plan_on_cpu(const Problem& problem) {
  const cpu::Plan plan = cpu::plan(problem);
  return plan.status.ok() ? Answer{FLASHONNX_OK, plan.reason()} : unavailable(plan.status);
}

Answer plan_on_gpu(const Problem& problem, const flashonnx_device& from) {
  cuda::Device device;
  const Status status = from.compute_capability != 0 ? cuda::known_device(from.compute_capability, &device)
                                                     : cuda::query_device(from.index, &device);
  if (!status.ok()) return unavailable(status);
  const cuda::Plan plan = cuda::plan(problem, device);
  return plan.status.ok() ? Answer{FLASHONNX_OK, cuda::describe(plan)} : unavailable(plan.status);
}

Answer plan(const flashonnx_node& from, const flashonnx_device& device) {
  Status status = check_device(device);
  if (!status.ok()) return unavailable(status);
  Problem problem;
  status = read_problem_without_data(from, &problem);
  if (!status.ok()) return invalid(status);
  return device.type == FLASHONNX_CUDA ? plan_on_gpu(problem, device) : plan_on_cpu(problem);
}

Answer output_shape(const flashonnx_node& from, int32_t index, int64_t* dims, int32_t* rank) {
  if (index < 0 || index >= contract::kNumOutputs) {
    return invalid(Status::error("there is no output " + std::to_string(index) + "; allowed: 0 to " +
                                 std::to_string(contract::kNumOutputs - 1)));
  }
  Node node;
  Sizes sizes;
  Status status = read_node(from, &node);
  if (status.ok()) status = check_node(node, &sizes);
  if (!status.ok()) return invalid(status);
  const TensorDesc output = infer_output(node, sizes, index);
  *rank = output.has_shape ? static_cast<int32_t>(output.dims.size()) : -1;
  for (size_t i = 0; i < output.dims.size(); ++i) dims[i] = output.dims[i];
  return {};
}

Answer multiply_add(int64_t flops, int32_t num_threads, int64_t* done) {
  if (flops < 0) {
    return invalid(Status::error("flops is " + std::to_string(flops) + "; allowed: 0 and positive numbers"));
  }
  *done = cpu::multiply_add(flops, PoolParallel(num_threads));
  return {};
}

template <typename Include>
std::string isa_list(const Include& include) {
  std::string list;
  for (const cpu::Isa isa : cpu::kIsas) {
    if (include(isa)) list += std::string(list.empty() ? "" : ", ") + "\"" + cpu::name(isa) + "\"";
  }
  return "[" + list + "]";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#elif defined(__GNUC__)
  return "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#else
  return "unknown";
#endif
}

Answer build_info() {
  return {FLASHONNX_OK, std::string("{\"version\": \"") + FLASHONNX_VERSION + "\", \"compiler\": \"" + compiler() +
                            "\", \"cpu_kernels\": " + isa_list(cpu::is_compiled) + ", \"cpu_kernels_supported\": " +
                            isa_list(cpu::is_supported) + ", \"cpu_kernel\": \"" + cpu::name(cpu::best_isa()) +
                            "\", \"cuda\": " + (cuda::is_built() ? "true" : "false") + "}"};
}

}  // namespace
}  // namespace flashonnx::capi

int32_t flashonnx_check(const flashonnx_node* node, char* text, size_t text_size) {
  return flashonnx::capi::reply(text, text_size, [&] { return flashonnx::capi::check(*node); });
}

int32_t flashonnx_run(const flashonnx_node* node, const flashonnx_device* device, char* text, size_t text_size) {
  return flashonnx::capi::reply(text, text_size, [&] { return flashonnx::capi::run(*node, *device); });
}

int32_t flashonnx_plan(const flashonnx_node* node, const flashonnx_device* device, char* text, size_t text_size) {
  return flashonnx::capi::reply(text, text_size, [&] { return flashonnx::capi::plan(*node, *device); });
}

int32_t flashonnx_output_shape(const flashonnx_node* node, int32_t index, int64_t* dims, int32_t* rank, char* text,
                               size_t text_size) {
  return flashonnx::capi::reply(text, text_size,
                                [&] { return flashonnx::capi::output_shape(*node, index, dims, rank); });
}

int32_t flashonnx_multiply_add(int64_t flops, int32_t num_threads, int64_t* done, char* text, size_t text_size) {
  return flashonnx::capi::reply(text, text_size,
                                [&] { return flashonnx::capi::multiply_add(flops, num_threads, done); });
}

int32_t flashonnx_build_info(char* text, size_t text_size) {
  return flashonnx::capi::reply(text, text_size, [] { return flashonnx::capi::build_info(); });
}

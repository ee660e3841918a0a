// Runs of one kernel variant, forced as a user would.
#pragma once

#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "op/core/parallel.h"
#include "op/cpu/flash_attention.h"

namespace flashonnx::testing {

// `threads` threads that take indices in turns, so that many threads see many orders.
class TestParallel final : public Parallel {
 public:
  explicit TestParallel(int threads) : threads_(threads) {}

  void run(int64_t count, Task task, void* context) const override {
    std::vector<std::thread> threads;
    for (int t = 0; t < threads_; ++t) {
      threads.emplace_back([=] {
        for (int64_t i = t; i < count; i += threads_) task(context, i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  int threads_;
};

class InlineParallel final : public Parallel {
 public:
  void run(int64_t count, Task task, void* context) const override {
    for (int64_t i = 0; i < count; ++i) task(context, i);
  }
};

class ForcedKernel {
 public:
  explicit ForcedKernel(const std::string& name) { setenv(cpu::kKernelVariable, name.c_str(), 1); }
  ~ForcedKernel() { unsetenv(cpu::kKernelVariable); }
};

// The variants that this machine can run, of all types or those for tiles of bfloat16.
inline std::vector<std::string> runnable_variants(bool for_bfloat16 = false) {
  std::vector<std::string> names;
  for (const cpu::Isa isa : cpu::kIsas) {
    if (cpu::is_for_bfloat16(isa) != for_bfloat16) continue;
    if (cpu::is_compiled(isa) && cpu::is_supported(isa)) names.push_back(cpu::name(isa));
  }
  return names;
}

inline Status plan_and_run(const Problem& problem, const Parallel& parallel) {
  const cpu::Plan plan = cpu::plan(problem);
  if (!plan.status.ok()) return plan.status;
  std::vector<char> workspace(static_cast<size_t>(plan.workspace_bytes) + 64);
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  return cpu::run(problem, plan, reinterpret_cast<void*>((address + 63) / 64 * 64), parallel);
}

}  // namespace flashonnx::testing

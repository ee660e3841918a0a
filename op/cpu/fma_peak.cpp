#include "op/cpu/fma_peak.h"

#include <array>

#include "op/cpu/isa.h"
#include "op/cpu/kernel_table.h"

namespace flashonnx::cpu {

int64_t multiply_add(int64_t flops, const Parallel& parallel) {
  // A task takes some tens of microseconds: many more than threads, so that none waits long for the last.
  constexpr int64_t kRoundsPerTask = 20'000;
  const FmaPeak& peak = kernel_table(base(best_isa())).fma_peak;
  const int64_t flops_per_task = 2 * peak.sums * kRoundsPerTask;
  const int64_t tasks = flops / flops_per_task + (flops % flops_per_task != 0);
  parallel(tasks, [&](int64_t) {
    std::array<float, kMaxFmaSums> sums{};
    peak.run(kRoundsPerTask, sums.data());
  });
  return tasks * flops_per_task;
}

}  // namespace flashonnx::cpu

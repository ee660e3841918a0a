#include "op/cpu/flash_attention.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "op/cpu/kernel_table.h"
#include "op/cpu/mean_rows.h"
#include "op/cpu/naive.h"
#include "op/cpu/packed_keys.h"
#include "op/cpu/rows.h"
#include "op/cpu/tiles.h"

namespace flashonnx::cpu {
namespace {

// Tasks that a plan aims at: enough for the cores of a usual machine. The number of threads must not decide, or the
// same input would give other bits elsewhere.
constexpr int64_t kEnoughTasks = 32;
constexpr int64_t kLeastKeysOfASplit = 256;

const char* const kNaiveName = "naive";

std::string kernel_names() {
  std::string names = kNaiveName;
  for (Isa isa : kIsas) names += std::string(", ") + name(isa);
  return names;
}

// Of FLASHONNX_CPU_KERNEL.
struct Choice {
  Status status;
  bool forced = false;
  bool naive = false;
  Isa isa = Isa::kGeneric;
};

Choice refused(const char* value, const std::string& reason) {
  Choice choice;
  choice.status = Status::error(std::string(kKernelVariable) + "=" + value + ": " + reason);
  return choice;
}

Choice choice() {
  Choice choice;
  const char* value = std::getenv(kKernelVariable);
  choice.forced = value != nullptr && *value != '\0';
  if (!choice.forced) {
    choice.isa = best_isa();
    return choice;
  }
  if (std::strcmp(value, kNaiveName) == 0) {
    choice.naive = true;
    return choice;
  }
  for (Isa isa : kIsas) {
    if (std::strcmp(value, name(isa)) != 0) continue;
    if (!is_compiled(isa)) return refused(value, "this library was built without it");
    if (!is_supported(isa)) return refused(value, "this CPU or its operating system does not have it");
    choice.isa = isa;
    return choice;
  }
  return refused(value, "no such kernel; allowed are " + kernel_names());
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_few_rows(const Problem& problem) {
  const int64_t rows = problem.q_sequence_length * problem.group_size();
  return rows > 0 && rows <= kMaxFewRows;
}

void choose_isa(const Problem& problem, const Choice& chosen, Plan& plan) {
  plan.isa = chosen.isa;
  plan.why = chosen.forced ? "forced by FLASHONNX_CPU_KERNEL" : "the best instruction set of this CPU";
  if (!is_for_bfloat16(chosen.isa)) return;
  if (problem.dtype == DType::kBFloat16 && plan.kernel == Kernel::kTiled) return;
  plan.isa = base(chosen.isa);
  plan.why = chosen.forced ? "FLASHONNX_CPU_KERNEL names a set for tiles of bfloat16 only, this is what it extends"
                           : "the best instruction set of this CPU but for tiles of bfloat16";
}

void cut_into_tiles(const Problem& problem, Plan& plan) {
  const int64_t heads = problem.batch_size * problem.kv_num_heads;
  const int64_t rows = problem.q_sequence_length * problem.group_size();
  const int64_t panel = plan.kernel == Kernel::kFewRows ? rows : kernel_table(plan.isa).panel_rows;
  plan.tile_rows = std::clamp<int64_t>(ceil_div(rows, panel) * panel, panel, kMaxTileRows);
  while (plan.tile_rows > panel && heads * ceil_div(rows, plan.tile_rows) < kEnoughTasks) {
    plan.tile_rows = ceil_div(plan.tile_rows / 2, panel) * panel;
  }
  const int64_t tasks = std::max<int64_t>(1, heads * ceil_div(rows, plan.tile_rows));
  const int64_t most = std::max<int64_t>(1, problem.total_sequence_length() / kLeastKeysOfASplit);
  plan.splits = std::min(most, ceil_div(kEnoughTasks, tasks));
  if (plan.kernel == Kernel::kTiled) plan.packed_bytes = packed_bytes(problem);
  plan.workspace_bytes += plan.packed_bytes + partial_bytes(problem, plan.splits);
}

// At the start of the workspace, whichever kernel runs.
int64_t lse_bytes(const Problem& problem) {
  constexpr int64_t kAlignment = 64;
  if (!problem.mean_without_keys || problem.lse != nullptr) return 0;
  const int64_t rows = problem.batch_size * problem.q_num_heads * problem.q_sequence_length;
  return ceil_div(rows * static_cast<int64_t>(sizeof(float)), kAlignment) * kAlignment;
}

void copy_rows(const char* from, int64_t from_stride, char* to, int64_t to_stride, int64_t rows, int64_t bytes) {
  if (from_stride == bytes && to_stride == bytes) {
    std::memcpy(to, from, static_cast<size_t>(rows * bytes));
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(to + i * to_stride, from + i * from_stride, static_cast<size_t>(bytes));
  }
}

void append(const Problem& p, const Input& past, const Input& fresh, const Output& present, int64_t columns, int64_t b,
            int64_t h) {
  const int64_t size = size_of(p.dtype);
  const auto copy = [&](const Input& from, int64_t first, int64_t rows) {
    if (rows == 0) return;
    copy_rows(row(from, p.dtype, b, h, 0), from.row_stride * size, row(present, p.dtype, b, h, first),
              present.row_stride * size, rows, columns * size);
  };
  copy(past, 0, p.past_sequence_length);
  copy(fresh, p.past_sequence_length, p.kv_sequence_length);
}

void write_caches(const Problem& problem, const Parallel& parallel) {
  if (!problem.present_key && !problem.present_value) return;
  if (problem.total_sequence_length() == 0) return;  // whatever the number of heads
  parallel(problem.batch_size * problem.kv_num_heads, [&](int64_t head) {
    const int64_t b = head / problem.kv_num_heads;
    const int64_t h = head % problem.kv_num_heads;
    if (problem.present_key) {
      append(problem, problem.past_key, problem.k, problem.present_key, problem.head_size, b, h);
    }
    if (problem.present_value) {
      append(problem, problem.past_value, problem.v, problem.present_value, problem.v_head_size, b, h);
    }
  });
}

// Writes Y and lse. workspace: what lies behind lse.
Status run_kernel(const Problem& problem, const Plan& plan, char* workspace, const Parallel& parallel) {
  if (plan.kernel == Kernel::kNaive) return run_naive(problem, parallel);
  if (plan.packed_bytes == 0) return run_tiles(problem, plan, workspace, parallel);
  return run_tiles(pack_keys(problem, workspace, parallel), plan, workspace + plan.packed_bytes, parallel);
}

}  // namespace

std::string Plan::reason() const {
  if (!status.ok()) return status.message();
  std::string text = "CPU ";
  switch (kernel) {
    case Kernel::kNaive:
      return text + kNaiveName + ": " + why;
    case Kernel::kTiled:
      text += "tiled, ";
      break;
    case Kernel::kFewRows:
      text += "few rows, ";
      break;
  }
  text += std::string(name(isa)) + ", " + std::to_string(tile_rows) + " rows a tile";
  if (packed_bytes > 0) text += ", K and V packed";
  if (splits > 1) text += ", keys split in " + std::to_string(splits);
  return text + ": " + why;
}

Plan plan(const Problem& problem) {
  const Choice chosen = choice();
  Plan plan;
  plan.status = chosen.status;
  if (!plan.status.ok()) return plan;
  plan.lse_bytes = lse_bytes(problem);
  plan.workspace_bytes = plan.lse_bytes;
  if (chosen.naive) {
    plan.why = "forced by FLASHONNX_CPU_KERNEL";
  } else if (problem.dtype == DType::kDouble) {
    plan.why = "double has no other kernel";
  } else if (problem.qk_matmul_output != nullptr) {
    plan.why = "qk_matmul_output needs whole rows of scores";
  } else {
    plan.kernel = is_few_rows(problem) ? Kernel::kFewRows : Kernel::kTiled;
    choose_isa(problem, chosen, plan);
    cut_into_tiles(problem, plan);
  }
  return plan;
}

Status run(const Problem& problem, const Plan& plan, void* workspace, const Parallel& parallel) {
  if (!plan.status.ok()) return plan.status;
  write_caches(problem, parallel);
  auto* const memory = static_cast<char*>(workspace);
  if (!problem.mean_without_keys) return run_kernel(problem, plan, memory, parallel);
  Problem with_lse = problem;
  if (plan.lse_bytes > 0) with_lse.lse = static_cast<float*>(workspace);
  const Status status = run_kernel(with_lse, plan, memory + plan.lse_bytes, parallel);
  if (status.ok()) write_mean_rows(with_lse, parallel);
  return status;
}

}  // namespace flashonnx::cpu

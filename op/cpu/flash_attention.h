// FlashAttention on the CPU: choose a kernel for a problem, then run it on the caller's threads.
//
// Algorithm: Dao et al. 2022, "FlashAttention", algorithm 1; its row statistics m and l also merge partial results
// over split keys, as in Flash-Decoding. Meaning of every field: op/contract/flash_attention.json.
#pragma once

#include <cstdint>
#include <string>

#include "op/core/parallel.h"
#include "op/core/problem.h"
#include "op/core/status.h"
#include "op/cpu/isa.h"

namespace flashonnx::cpu {

enum class Kernel {
  kNaive,    // whole rows in double: the oracle, double tensors, qk_matmul_output
  kTiled,    // lanes are query rows
  kFewRows,  // lanes run along head_size: decoding
};

// What `run` will do. Depends on the problem, the CPU and FLASHONNX_CPU_KERNEL, never on the number of threads:
// the same problem gives the same bits whoever runs it.
struct Plan {
  Status status;  // an error where FLASHONNX_CPU_KERNEL names a kernel that this CPU or build cannot run
  Kernel kernel = Kernel::kNaive;
  Isa isa = Isa::kGeneric;
  int64_t tile_rows = 1;        // query rows a task, counted over the query heads that share a KV head
  int64_t splits = 1;           // parts that the keys are cut into, merged at the end
  int64_t packed_bytes = 0;     // of the workspace: copies of K and V (packed_keys.h)
  int64_t lse_bytes = 0;        // likewise: lse where mean_without_keys needs it and the caller does not
  int64_t workspace_bytes = 0;  // what `run` needs, aligned to 64 bytes

  // For users: which kernel, and why this one.
  std::string reason() const;

  const char* why = "";
};

// Environment variable that forces a kernel: naive, or an ISA's name (isa.h).
inline constexpr const char* kKernelVariable = "FLASHONNX_CPU_KERNEL";

Plan plan(const Problem& problem);

// Fills every output of a problem that passed make_problem and check_values (op/core/check.h).
// `workspace` holds plan.workspace_bytes and may be null where that is 0.
Status run(const Problem& problem, const Plan& plan, void* workspace, const Parallel& parallel);

}  // namespace flashonnx::cpu

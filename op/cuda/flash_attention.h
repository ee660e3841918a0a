// FlashAttention on NVIDIA GPUs: choose a kernel for a problem, then launch it on a stream.
//
// Every pointer of the Problem, nonpad_kv_seqlen, sinks and alibi_slopes included, is device memory. Neither call
// synchronises or allocates, so a launch can be captured in a CUDA graph. No CUDA header is needed to call this one,
// and where there was no nvcc (no_cuda.cpp) planning still works, for GPUs that are elsewhere.
#pragma once

#include <cstdint>
#include <string>

#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::cuda {

struct Device {
  int ordinal = 0;
  int compute_capability = 0;  // 10 * major + minor
  int multiprocessors = 0;
  int64_t shared_memory_bytes = 0;  // the most one block may have
  int64_t l2_bytes = 0;
};

// Whether the kernels were built.
bool is_built();

// What `ordinal` is; an error where there is no driver or no such device.
Status query_device(int ordinal, Device* device);
// Likewise, the device that the calling thread uses.
Status query_current_device(Device* device);
// The largest GPU of a compute capability, which need not be here; an error where none is known.
Status known_device(int compute_capability, Device* device);
// Whether the kernels are built for it.
Status check_device(const Device& device);
// A compute capability as it is written: "9.0" for 90.
std::string to_version(int compute_capability);

enum class Kernel {
  kNaive,  // any dtype, any size, every output
  kSm80,   // mma.sync and cp.async: tiles of query rows
  kSplit,  // mma.sync and cp.async: few query rows, keys split over blocks
  kSm90,   // wgmma and TMA
};
const char* name(Kernel kernel);

struct Plan {
  Status status;  // an error where no kernel, or not the forced one, takes the problem
  Kernel kernel = Kernel::kNaive;
  Device device;
  int q_tile = 1;            // query rows of a block
  int key_tile = 1;          // keys of a step
  int splits = 1;            // parts of the key range that are merged at the end
  bool draws_tiles = false;  // from a counter in the workspace, not by turns
  int64_t workspace_bytes = 0;
  std::string reason;  // why this kernel and not a faster one
};

// The environment variable that forces a kernel by name; one that cannot run the problem is then an error.
constexpr const char* kKernelVariable = "FLASHONNX_CUDA_KERNEL";

Plan plan(const Problem& problem, const Device& device);

// A plan in words: kernel, tile, split, and why.
std::string describe(const Plan& plan);

// The most that `workspace_bytes` may be for any problem with no dimension larger than `largest`'s: less work may be
// split more. For callers that reserve memory before they know the sizes.
int64_t max_workspace_bytes(const Problem& largest, const Device& device);

// Launches on `stream` (a cudaStream_t) of the current device. `workspace`: plan.workspace_bytes of device memory,
// aligned to 256 bytes, not needed after the launched work has run.
Status run(const Problem& problem, const Plan& plan, void* workspace, void* stream);

// Plans and launches on a stream of device `ordinal`, for callers who bring no workspace: it comes from, and goes back
// to, the stream's memory pool.
Status run_with_pool(const Problem& problem, int ordinal, void* stream);

}  // namespace flashonnx::cuda

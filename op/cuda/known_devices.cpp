// GPUs to plan for where there are none.
//
// Source: CUDA C++ Programming Guide, "Compute Capabilities", maximum shared memory of a thread block; multiprocessors
// of A100, RTX 3090 Ti, L40S, H100 SXM, B200 and RTX PRO 6000 Blackwell, from their data sheets.
#include <string>

#include "op/cuda/flash_attention.h"

namespace flashonnx::cuda {
namespace {

struct KnownDevice {
  int compute_capability;
  int multiprocessors;
  int shared_memory_kib;
};

constexpr KnownDevice kKnownDevices[] = {{80, 108, 163}, {86, 84, 99},    {89, 142, 99},
                                         {90, 132, 227}, {100, 148, 227}, {120, 188, 99}};

}  // namespace

std::string to_version(int compute_capability) {
  return std::to_string(compute_capability / 10) + "." + std::to_string(compute_capability % 10);
}

Status known_device(int compute_capability, Device* device) {
  std::string known;
  for (const KnownDevice& candidate : kKnownDevices) {
    if (candidate.compute_capability == compute_capability) {
      *device = {};
      device->compute_capability = compute_capability;
      device->multiprocessors = candidate.multiprocessors;
      device->shared_memory_bytes = candidate.shared_memory_kib * int64_t{1024};
      return {};
    }
    known += (known.empty() ? "" : ", ") + to_version(candidate.compute_capability);
  }
  return Status::error("no GPU of compute capability " + to_version(compute_capability) +
                       " is known; allowed: " + known);
}

}  // namespace flashonnx::cuda

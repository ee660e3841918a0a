// Which kernel takes a problem, and why not a faster one. Host code only: it plans for any device on any machine.
#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>

#include "op/cuda/flash_attention.h"
#include "op/cuda/tile_order.h"
#include "op/cuda/tiles.h"
#include "op/cuda/workspace.h"

namespace flashonnx::cuda {
namespace {

// Fastest first.
constexpr Kernel kPreference[] = {Kernel::kSplit, Kernel::kSm90, Kernel::kSm80, Kernel::kNaive};
constexpr int64_t kFewRows = 64;  // per key/value head: at most so many go to the split kernel
constexpr int64_t kLeastSplitKeys = 256;
constexpr int64_t kLeastWideKeys = 1024;     // of a part that a wide block reads
constexpr int kLeastComputeCapability = 80;  // op/cuda/CMakeLists.txt builds for no older one

std::string head_sizes(const Problem& problem) {
  return "head_size " + std::to_string(problem.head_size) + ", v_head_size " + std::to_string(problem.v_head_size);
}

// What rules out every tensor-core kernel; empty: nothing does.
std::string why_not_tiled(const Problem& problem) {
  if (problem.dtype == DType::kDouble) return "it takes float, float16 and bfloat16";
  if (problem.qk_matmul_output != nullptr) return "it never holds qk_matmul_output";
  if (problem.total_sequence_length() == 0) return "there are no keys";
  if (problem.total_sequence_length() > 0x7FFFFFFF || problem.q_sequence_length > 0x7FFFFFFF) {
    return "it takes up to 2^31 - 1 queries and keys";
  }
  return "";
}

std::string why_not_sm90(const Problem& problem, const Device& device) {
  if (device.compute_capability != 90) return "it needs compute capability 9.0";
  if (problem.dtype == DType::kFloat) return "it takes float16 and bfloat16";
  if (sm90_head_sizes(problem) == nullptr) return head_sizes(problem) + " exceed what it is built for";
  const int64_t keys = problem.total_sequence_length();
  const Workspace moved = workspace(problem, {});  // K and V go to the same place under any plan
  const int64_t batches = problem.batch_size, kv_heads = problem.kv_num_heads, bytes = size_of(problem.dtype);
  const bool reads = copy_engine_reads(problem.q, bytes,
                                       {batches, problem.q_num_heads, problem.q_sequence_length, problem.head_size}) &&
                     copy_engine_reads(moved.k, bytes, {batches, kv_heads, keys, problem.head_size}) &&
                     copy_engine_reads(moved.v, bytes, {batches, kv_heads, keys, problem.v_head_size});
  if (!reads || !aligned_rows(problem.y, problem.v_head_size, bytes)) {
    return "rows of Q, K, V or Y do not all start at multiples of 16 bytes";
  }
  return "";
}

// A kernel built for `size`, 0 for none, with that much shared memory.
std::string why_not_sized(const Problem& problem, int size, int64_t shared_bytes, const Device& device) {
  if (size == 0) return head_sizes(problem) + " exceed what it is built for";
  if (shared_bytes <= device.shared_memory_bytes) return "";
  return "it needs " + std::to_string(shared_bytes) + " bytes of shared memory for this head size";
}

constexpr int kNarrowWarps = kMostSplitWarps / 2;  // of the split kernel's blocks, two of which share a multiprocessor
constexpr int kLeastWarps = kNarrowWarps / 2;      // where shared memory is short

int64_t split_bytes(const Problem& problem, int warps) {
  return split_shared_bytes(size_of(problem.dtype), split_head_size(problem), warps);
}

std::string why_not_split(const Problem& problem, const Device& device) {
  const int64_t rows = problem.q_sequence_length * problem.group_size();
  if (rows > kFewRows) {
    return std::to_string(rows) + " query rows per key/value head, it is for " + std::to_string(kFewRows) + " or fewer";
  }
  return why_not_sized(problem, split_head_size(problem), split_bytes(problem, kLeastWarps), device);
}

std::string why_not_sm80(const Problem& problem, const Device& device) {
  const int size = sm80_head_size(problem);
  return why_not_sized(problem, size, sm80_shared_bytes(size_of(problem.dtype), size), device);
}

std::string why_not(Kernel kernel, const Problem& problem, const Device& device) {
  if (kernel == Kernel::kNaive) {
    const int64_t shared = (problem.head_size + problem.v_head_size) * 8 + 2048;
    return shared > device.shared_memory_bytes ? head_sizes(problem) + " exceed shared memory" : "";
  }
  const std::string tiled = why_not_tiled(problem);
  if (!tiled.empty()) return tiled;
  if (kernel == Kernel::kSm90) return why_not_sm90(problem, device);
  if (kernel == Kernel::kSplit) return why_not_split(problem, device);
  return why_not_sm80(problem, device);
}

struct SplitChoice {
  int warps;
  int splits;
};

// Tiles that keep most multiprocessors busy are not split, since parts have to be merged. Others are, into enough parts
// to give every multiprocessor its blocks, of no fewer keys than are worth a merge. Blocks are as wide as they can be,
// for few parts, except where that leaves multiprocessors idle, blocks have to take turns, or each has few keys: of two
// smaller blocks a multiprocessor one reads while the other begins or ends.
SplitChoice choose_split(const Problem& problem, const Device& device) {
  const int64_t row_tiles = (problem.q_sequence_length * problem.group_size() + kSplitRows - 1) / kSplitRows;
  const int64_t tiles = std::max<int64_t>(1, problem.batch_size * problem.kv_num_heads * row_tiles);
  const auto fits = [&](int warps, int64_t blocks) {
    return blocks * split_bytes(problem, warps) <= device.shared_memory_bytes;
  };
  const auto busy = [&](int64_t blocks) { return 4 * blocks >= 3 * device.multiprocessors; };

  int warps = kMostSplitWarps;
  while (warps > kLeastWarps && !fits(warps, 1)) warps /= 2;
  int64_t splits = device.multiprocessors / tiles;
  const int64_t keys = problem.total_sequence_length();
  const int64_t most = std::min<int64_t>(kMostSplits, keys / kLeastSplitKeys);
  const bool has_few_keys = !busy(tiles) && splits < most && keys < splits * kLeastWideKeys;
  if ((has_few_keys || !busy(tiles * splits)) && fits(kNarrowWarps, 2)) {
    warps = kNarrowWarps;
    splits = 2 * device.multiprocessors / tiles;
  }
  if (busy(tiles)) return {warps, 1};
  return {warps, static_cast<int>(std::max<int64_t>(1, std::min(splits, most)))};
}

void fill(const Problem& problem, Plan* plan) {
  TileShape tile{1, 128};
  switch (plan->kernel) {
    case Kernel::kSm90:
      tile = sm90_tile(*sm90_head_sizes(problem), sm90_use(problem, plan->device.multiprocessors));
      plan->draws_tiles = draws_tiles(problem, tile.q_tile, plan->device.multiprocessors);
      break;
    case Kernel::kSm80:
      tile = sm80_tile(size_of(problem.dtype), sm80_head_size(problem));
      break;
    case Kernel::kSplit: {
      const SplitChoice choice = choose_split(problem, plan->device);
      tile = {kSplitRows, choice.warps * split_warp_keys(size_of(problem.dtype), split_head_size(problem))};
      plan->splits = choice.splits;
      break;
    }
    case Kernel::kNaive:
      break;
  }
  plan->q_tile = tile.q_tile;
  plan->key_tile = tile.key_tile;
  plan->workspace_bytes = workspace(problem, *plan).bytes;
}

std::string kernel_names() {
  std::string names;
  for (const Kernel kernel : kPreference) names += (names.empty() ? "" : ", ") + std::string(name(kernel));
  return names;
}

Status force(const std::string& text, const Problem& problem, Plan* plan) {
  const Kernel* kernel = std::find_if(std::begin(kPreference), std::end(kPreference),
                                      [&](Kernel candidate) { return text == name(candidate); });
  if (kernel == std::end(kPreference)) {
    return Status::error(std::string(kKernelVariable) + " is '" + text + "'; it may be " + kernel_names());
  }
  const std::string obstacle = why_not(*kernel, problem, plan->device);
  if (!obstacle.empty()) {
    return Status::error(std::string(kKernelVariable) + " asks for " + text + ", but " + obstacle);
  }
  plan->kernel = *kernel;
  plan->reason = std::string("forced by ") + kKernelVariable;
  return {};
}

Status choose(const Problem& problem, Plan* plan) {
  std::string obstacles;
  for (const Kernel kernel : kPreference) {
    const std::string obstacle = why_not(kernel, problem, plan->device);
    if (obstacle.empty()) {
      plan->kernel = kernel;
      plan->reason = obstacles.empty() ? "the first choice" : obstacles;
      return {};
    }
    obstacles += (obstacles.empty() ? "not " : "; not ") + std::string(name(kernel)) + ": " + obstacle;
  }
  return Status::error("no CUDA kernel takes this problem: " + obstacles);
}

}  // namespace

Status check_device(const Device& device) {
  if (device.compute_capability >= kLeastComputeCapability) return {};
  return Status::error("the GPU has compute capability " + to_version(device.compute_capability) +
                       "; allowed: " + to_version(kLeastComputeCapability) + " or later");
}

const char* name(Kernel kernel) {
  switch (kernel) {
    case Kernel::kNaive:
      return "naive";
    case Kernel::kSm80:
      return "sm80";
    case Kernel::kSplit:
      return "split";
    case Kernel::kSm90:
      return "sm90";
  }
  return "";
}

Plan plan(const Problem& problem, const Device& device) {
  Plan plan;
  plan.device = device;
  plan.status = check_device(device);
  if (!plan.status.ok()) return plan;
  const char* forced = std::getenv(kKernelVariable);
  if (forced != nullptr && *forced != '\0') {
    plan.status = force(forced, problem, &plan);
  } else {
    plan.status = choose(problem, &plan);
  }
  if (plan.status.ok()) fill(problem, &plan);
  return plan;
}

std::string describe(const Plan& plan) {
  std::string text = std::string(name(plan.kernel)) + ", " + std::to_string(plan.q_tile) + " x " +
                     std::to_string(plan.key_tile) + " tiles";
  if (plan.splits > 1) text += ", keys in " + std::to_string(plan.splits) + " parts";
  return text + " (" + plan.reason + ")";
}

// Rows of K and V grow with the problem. Partial results do not: what is split has so few tiles that all parts together
// make at most two a multiprocessor (choose_split). Whether attn_mask is copied is not known yet: it depends on
// pointers, too.
int64_t max_workspace_bytes(const Problem& largest, const Device& device) {
  const int64_t rows = 2 * device.multiprocessors * kSplitRows;
  Problem copied = largest;
  if (device.compute_capability == 90 && largest.dtype != DType::kFloat) {
    copied.mask.key_stride = 0;  // which no copy engine reads
  } else {
    copied.mask = {};
  }
  Plan plan;
  plan.kernel = Kernel::kSm90;
  plan.draws_tiles = true;
  return workspace(copied, plan).bytes + rows * partial_row_bytes(largest);
}

}  // namespace flashonnx::cuda

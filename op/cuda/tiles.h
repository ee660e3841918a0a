// The head sizes that kernels are built for and the tile that each takes. Dispatch, launches and the build's
// instances all read this.
#pragma once

#include <cstdint>

#include "op/core/problem.h"

namespace flashonnx::cuda {

// Whether scores need more than scale and an interval of keys; else a scale, which then is positive, is folded into
// the exponential.
inline bool needs_more_than_mask(const Problem& problem) {
  return problem.softcap > 0 || problem.alibi_slopes != nullptr || !(problem.scale > 0);
}
inline bool needs_modified_scores(const Problem& problem) { return problem.mask || needs_more_than_mask(problem); }

// Whether every query row sees every key, so that all tiles cost the same.
inline bool uniform_keys(const Problem& problem) {
  return !problem.is_causal && problem.left_window_size < 0 && problem.right_window_size < 0 &&
         problem.nonpad_kv_seqlen == nullptr;
}

// Whether the rows of a view, `columns` elements of so many bytes long, can be moved 16 bytes at a time.
template <typename Pointer>
bool aligned_rows(const View<Pointer>& view, int64_t columns, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
         (view.batch_stride | view.head_stride | view.row_stride | columns) * element_bytes % 16 == 0;
}

struct TensorSizes {
  int64_t batches;
  int64_t heads;
  int64_t rows;
  int64_t columns;
};

// Whether the sm_90 copy engine can read a view: dimensions of more than one element lie multiples of 16 bytes apart.
inline bool copy_engine_reads(const Input& view, int64_t element_bytes, const TensorSizes& sizes) {
  constexpr int64_t kMostStride = int64_t{1} << 40;
  const auto fits = [&](int64_t size, int64_t stride) {
    return size == 1 || (stride > 0 && stride * element_bytes % 16 == 0 && stride < kMostStride / element_bytes);
  };
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && sizes.columns > 0 && fits(sizes.rows, view.row_stride) &&
         fits(sizes.heads, view.head_stride) && fits(sizes.batches, view.batch_stride);
}

// attn_mask as the copy engine sees it: one element along each dimension that it is broadcast over, keys excepted.
inline Input mask_view(const Mask& mask) { return {mask.data, mask.batch_stride, mask.head_stride, mask.row_stride}; }
inline TensorSizes mask_sizes(const Problem& problem) {
  const Mask& mask = problem.mask;
  return {mask.batch_stride != 0 ? problem.batch_size : 1, mask.head_stride != 0 ? problem.q_num_heads : 1,
          mask.row_stride != 0 ? problem.q_sequence_length : 1, mask.length};
}
inline bool copy_engine_reads_mask(const Problem& problem) {
  const Mask& mask = problem.mask;
  return mask.key_stride == 1 && copy_engine_reads(mask_view(mask), size_of(mask.dtype), mask_sizes(problem));
}

struct TileShape {
  int q_tile = 0;
  int key_tile = 0;
};

// A problem takes the first entry that holds it; its rows are padded up by what TMA or the loader fills with zeros.
struct HeadSizes {
  int head_size;
  int v_head_size;
};
constexpr HeadSizes kSm90HeadSizes[] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {192, 192}, {256, 256}};
constexpr int kSm80HeadSizes[] = {64, 96, 128, 192, 256};
constexpr int kSm80FloatHeadSizes[] = {64, 128, 256};
constexpr int kSplitHeadSizes[] = {64, 128, 256};
constexpr int kSplitFloatHeadSizes[] = {64, 128};

inline const HeadSizes* sm90_head_sizes(const Problem& problem) {
  for (const HeadSizes& sizes : kSm90HeadSizes) {
    if (problem.head_size <= sizes.head_size && problem.v_head_size <= sizes.v_head_size) return &sizes;
  }
  return nullptr;
}

// The entry of `sizes` for a problem, 0 where all are too small.
template <int kCount>
int head_size_for(const Problem& problem, const int (&sizes)[kCount]) {
  for (const int size : sizes) {
    if (problem.head_size <= size && problem.v_head_size <= size) return size;
  }
  return 0;
}
inline int sm80_head_size(const Problem& problem) {
  return problem.dtype == DType::kFloat ? head_size_for(problem, kSm80FloatHeadSizes)
                                        : head_size_for(problem, kSm80HeadSizes);
}
inline int split_head_size(const Problem& problem) {
  return problem.dtype == DType::kFloat ? head_size_for(problem, kSplitFloatHeadSizes)
                                        : head_size_for(problem, kSplitHeadSizes);
}

// What decides the sm_90 kernel's tile, beside the head sizes.
enum class Sm90Use {
  kTall,       // an interval of keys a row: causal, windows, padding; or all of them
  kShort,      // likewise, where short tiles leave less of the GPU idle
  kFloatMask,  // scores need attn_mask, a positive scale and an interval
  kBoolMask,   // likewise
  kModified,   // scores need more than that
};
constexpr bool modifies_scores(Sm90Use use) { return use >= Sm90Use::kFloatMask; }

// Bounds: registers (output, scores and probabilities of 64 rows: 232 a thread with two consumers, 160 with three)
// and shared memory (227 KiB for Q and at least two stages of K, V and, of modified scores, attn_mask).
constexpr TileShape sm90_tile(HeadSizes sizes, Sm90Use use) {
  switch (sizes.head_size) {
    case 64:
      return {use == Sm90Use::kShort ? 128 : 192, 128};
    case 96:
    case 128:
      return {128, 128};
    case 192:
      return {128, modifies_scores(use) ? 64 : sizes.v_head_size == 128 ? 128 : 112};
    default:
      return {128, modifies_scores(use) ? 64 : 80};
  }
}

// Tiles that the query rows of a head make.
inline int64_t row_blocks(const Problem& problem, int q_tile) {
  return (problem.q_sequence_length + q_tile - 1) / q_tile;
}

inline int64_t all_tiles(const Problem& problem, int q_tile) {
  return problem.batch_size * problem.q_num_heads * row_blocks(problem, q_tile);
}

// Query rows, in whole tiles, that the busiest multiprocessor computes.
inline int64_t most_rows(const Problem& problem, int q_tile, int multiprocessors) {
  return (all_tiles(problem, q_tile) + multiprocessors - 1) / multiprocessors * q_tile;
}

// Tall tiles cost a fifth less a row, but of few rows their last ones are partly empty, the last round of them leaves
// more multiprocessors without one, and of an interval they compute more of what is masked.
inline Sm90Use sm90_use(const Problem& problem, int multiprocessors) {
  constexpr int64_t kShortInterval = 1024;
  if (needs_more_than_mask(problem)) return Sm90Use::kModified;
  if (problem.mask) return problem.mask.dtype == DType::kBool ? Sm90Use::kBoolMask : Sm90Use::kFloatMask;
  if (!uniform_keys(problem)) {
    return problem.q_sequence_length <= kShortInterval ? Sm90Use::kShort : Sm90Use::kTall;
  }
  const HeadSizes sizes = *sm90_head_sizes(problem);
  const int64_t tall = most_rows(problem, sm90_tile(sizes, Sm90Use::kTall).q_tile, multiprocessors);
  const int64_t shorter = most_rows(problem, sm90_tile(sizes, Sm90Use::kShort).q_tile, multiprocessors);
  return 4 * tall > 5 * shorter ? Sm90Use::kShort : Sm90Use::kTall;
}

// Keys: as many as registers (16-bit elements) or the shared memory of two blocks a multiprocessor (floats) allow.
constexpr TileShape sm80_tile(int64_t element_bytes, int head_size) {
  if (element_bytes == 4) return {head_size <= 128 ? 128 : 64, head_size <= 64 ? 64 : head_size <= 128 ? 32 : 16};
  return {head_size <= 128 ? 128 : 64, head_size <= 64 ? 128 : 64};
}
constexpr int64_t sm80_shared_bytes(int64_t element_bytes, int head_size) {
  const TileShape tile = sm80_tile(element_bytes, head_size);
  return (tile.q_tile + 2 * tile.key_tile) * ((head_size + 63) / 64 * 64) * element_bytes;
}

// The split kernel: every warp of a block takes so many keys a step, through a ring of a few steps of its own.
constexpr int kSplitRows = 16;
constexpr int split_warp_keys(int64_t element_bytes, int head_size) {
  return element_bytes * head_size <= 128 ? 32 : 16;
}
constexpr int split_stages(int64_t element_bytes) { return element_bytes == 4 ? 2 : 3; }
constexpr int kMostSplitWarps = 8;
constexpr int kMostSplits = 256;
inline int64_t split_partial_columns(const Problem& problem) { return (problem.v_head_size + 3) / 4 * 4; }
constexpr int64_t split_shared_bytes(int64_t element_bytes, int head_size, int warps) {
  const int64_t ring_rows = 2 * split_stages(element_bytes) * split_warp_keys(element_bytes, head_size);
  return (kSplitRows + warps * ring_rows) * head_size * element_bytes;
}

}  // namespace flashonnx::cuda

#include "op/cpu/packed_keys.h"

#include <algorithm>
#include <cstring>

#include "op/cpu/kernel/tile.h"
#include "op/cpu/rows.h"

namespace flashonnx::cpu {
namespace {

// Fewer tiles copy their blocks themselves, into memory that stays in the caches, for less.
constexpr int64_t kTilesToPackFor = 5;
constexpr int64_t kChunkRows = 64;

int64_t chunks(const Problem& p) { return (p.kv_sequence_length + kChunkRows - 1) / kChunkRows; }

int64_t bytes_of(const Problem& p, int64_t columns) {
  constexpr int64_t kAlignment = 64;
  const int64_t bytes = p.batch_size * p.kv_num_heads * p.kv_sequence_length * columns * size_of(p.dtype);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

View<const void*> packed(const Problem& p, const void* data, int64_t columns) {
  const int64_t head_stride = p.kv_sequence_length * columns;
  return {data, p.kv_num_heads * head_stride, head_stride, columns};
}

// Rows of all heads in turns, as they lie in memory.
void copy_chunk(const Problem& p, const Input& from, char* to, int64_t columns, int64_t b, int64_t chunk) {
  const int64_t bytes = columns * size_of(p.dtype);
  const int64_t first = chunk * kChunkRows, last = std::min(first + kChunkRows, p.kv_sequence_length);
  for (int64_t i = first; i < last; ++i) {
    for (int64_t h = 0; h < p.kv_num_heads; ++h) {
      char* out = to + ((b * p.kv_num_heads + h) * p.kv_sequence_length + i) * bytes;
      std::memcpy(out, row(from, p.dtype, b, h, i), static_cast<size_t>(bytes));
    }
  }
}

}  // namespace

int64_t packed_bytes(const Problem& problem) {
  const bool lie_apart = problem.k.row_stride != problem.head_size || problem.v.row_stride != problem.v_head_size;
  const int64_t rows = problem.q_sequence_length * problem.group_size();
  if (!lie_apart || rows <= (kTilesToPackFor - 1) * kMaxTileRows) return 0;
  return bytes_of(problem, problem.head_size) + bytes_of(problem, problem.v_head_size);
}

Problem pack_keys(const Problem& problem, void* memory, const Parallel& parallel) {
  char* k = static_cast<char*>(memory);
  char* v = k + bytes_of(problem, problem.head_size);
  parallel(problem.batch_size * chunks(problem), [&](int64_t task) {
    const int64_t b = task / chunks(problem), chunk = task % chunks(problem);
    copy_chunk(problem, problem.k, k, problem.head_size, b, chunk);
    copy_chunk(problem, problem.v, v, problem.v_head_size, b, chunk);
  });
  Problem result = problem;
  result.k = packed(problem, k, problem.head_size);
  result.v = packed(problem, v, problem.v_head_size);
  return result;
}

}  // namespace flashonnx::cpu

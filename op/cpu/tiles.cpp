#include "op/cpu/tiles.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "op/core/key_range.h"
#include "op/cpu/convert.h"
#include "op/cpu/kernel_table.h"
#include "op/cpu/rows.h"
#include "op/cpu/scratch.h"

namespace flashonnx::cpu {

RowEnd finish_row(float m, float l, float sink, bool needs_lse) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (l == 0) return {0, kNever};  // no key is allowed: 0, never 0/0
  if (sink == kNever) return {1 / l, needs_lse ? m + std::log(l) : 0};
  const float base = std::max(m, sink);
  const float shrink = std::exp(m - base);
  const float sum = l * shrink + std::exp(sink - base);
  return {shrink / sum, needs_lse ? base + std::log(sum) : 0};
}

namespace {

constexpr float kNoSink = -std::numeric_limits<float>::infinity();

// Rows that read one KV head: query i of head g of its group is row i * group_size + g, so that rows side by side
// see nearly the same keys.
int64_t rows_per_kv_head(const Problem& p) { return p.q_sequence_length * p.group_size(); }

// One batch entry and KV head of a problem.
class KvHead {
 public:
  KvHead(const Problem& problem, int64_t b, int64_t h) : p_(problem), b_(b), h_(h), limits_(key_limits(problem, b)) {}

  // Everything of a tile but its rows' number, its split and its partial results.
  Tile tile() const {
    Tile tile;
    tile.dtype = p_.dtype;
    tile.head_size = p_.head_size;
    tile.v_head_size = p_.v_head_size;
    set_scale(tile);
    tile.softcap = static_cast<float>(p_.softcap);
    tile.mask_dtype = has_mask_by_key() ? p_.mask.dtype : DType::kUndefined;
    tile.mask_is_shared = p_.mask.row_stride == 0 && (p_.mask.head_stride == 0 || p_.group_size() == 1);
    tile.has_alibi = p_.alibi_slopes != nullptr;
    tile.has_bias = p_.mask && !has_mask_by_key();
    tile.partial = {};
    tile.rows = 0;
    add_segments(tile);
    return tile;
  }

  TileRow row(int64_t r) const {
    const int64_t i = r / p_.group_size();
    const int64_t h = h_ * p_.group_size() + r % p_.group_size();
    const KeyRange range = limits_.row(i);
    TileRow row;
    row.q = cpu::row(p_.q, p_.dtype, b_, h, i);
    row.y = cpu::row(p_.y, p_.dtype, b_, h, i);
    row.lse = p_.lse == nullptr ? nullptr : p_.lse + (b_ * p_.q_num_heads + h) * p_.q_sequence_length + i;
    row.begin = range.begin;
    row.end = range.end;
    row.position = i + limits_.offset;
    row.slope = p_.alibi_slopes == nullptr ? 0 : p_.alibi_slopes[b_ * p_.alibi_batch_stride + h];
    row.sink = p_.sinks == nullptr ? kNoSink : p_.sinks[h];
    row.mask = nullptr;
    row.bias = 0;
    if (p_.mask) set_mask(row, b_ * p_.mask.batch_stride + h * p_.mask.head_stride + i * p_.mask.row_stride);
    return row;
  }

 private:
  bool has_mask_by_key() const { return p_.mask && p_.mask.key_stride != 0; }

  void set_mask(TileRow& row, int64_t index) const {
    if (has_mask_by_key()) {
      row.mask = static_cast<const char*>(p_.mask.data) + index * size_of(p_.mask.dtype);
      return;
    }
    row.bias = static_cast<float>(mask_bias(p_.mask, index));
    if (row.bias == kNoSink) row.end = row.begin;
  }

  // In two factors: multiplied into Q as a whole, the scale would cost Q's exact products with K a rounding.
  void set_scale(Tile& tile) const {
    int exponent = 0;
    const double fraction = std::frexp(std::abs(p_.scale), &exponent);
    tile.q_scale = static_cast<float>(std::copysign(std::ldexp(1.0, exponent - 1), p_.scale));
    tile.score_scale = static_cast<float>(2 * fraction);
    if (p_.scale == 0) tile.q_scale = 0, tile.score_scale = 1;
  }

  void add_segments(Tile& tile) const {
    const int64_t past = p_.past_sequence_length;
    tile.segments = 0;
    if (past > 0) {
      tile.segment[tile.segments++] = {0,
                                       past,
                                       cpu::row(p_.past_key, p_.dtype, b_, h_, 0),
                                       cpu::row(p_.past_value, p_.dtype, b_, h_, 0),
                                       p_.past_key.row_stride,
                                       p_.past_value.row_stride};
    }
    tile.segment[tile.segments++] = {past,
                                     past + p_.kv_sequence_length,
                                     cpu::row(p_.k, p_.dtype, b_, h_, 0),
                                     cpu::row(p_.v, p_.dtype, b_, h_, 0),
                                     p_.k.row_stride,
                                     p_.v.row_stride};
  }

  const Problem& p_;
  const int64_t b_, h_;
  const KeyLimits limits_;
};

// Partial results of all rows: o (row, split, v_head_size), then m and l (row, split).
class Partials {
 public:
  Partials(const Problem& problem, int64_t splits, void* workspace)
      : rows_(problem.batch_size * problem.kv_num_heads * rows_per_kv_head(problem)),
        splits_(splits),
        v_head_size_(problem.v_head_size),
        o_(static_cast<float*>(workspace)) {}

  int64_t floats() const { return rows_ * splits_ * (v_head_size_ + 2); }

  // Of one split, rows from `row` on lie together.
  Partial at(int64_t split, int64_t row) const {
    const int64_t index = split * rows_ + row;
    return {o_ + index * v_head_size_, statistics() + index, statistics() + rows_ * splits_ + index};
  }

 private:
  float* statistics() const { return o_ + rows_ * splits_ * v_head_size_; }

  int64_t rows_, splits_, v_head_size_;
  float* o_;
};

// Keeps of each row's keys only the given split's share of those that the whole tile sees.
void keep_split(Tile& tile, int64_t split, int64_t splits) {
  int64_t begin = std::numeric_limits<int64_t>::max(), end = 0;
  for (int r = 0; r < tile.rows; ++r) {
    if (tile.row[r].begin >= tile.row[r].end) continue;
    begin = std::min(begin, tile.row[r].begin);
    end = std::max(end, tile.row[r].end);
  }
  if (begin >= end) return;
  const int64_t share = (end - begin + splits - 1) / splits;
  const int64_t first = begin + split * share;
  for (int r = 0; r < tile.rows; ++r) {
    tile.row[r].begin = std::max(tile.row[r].begin, first);
    tile.row[r].end = std::min(tile.row[r].end, first + share);
  }
}

// KV heads that take turns at each block of rows, where they read the same rows of a mask: these then come from the
// caches. The K and V of many heads would not stay there.
int64_t heads_in_turns(const Problem& p) {
  constexpr int64_t kMost = 4;
  return p.mask && p.mask.row_stride != 0 && p.mask.head_stride == 0 ? std::gcd(kMost, p.kv_num_heads) : 1;
}

// What a task computes. Heads are counted over the batch.
struct Part {
  int64_t head, block, split;
};

// Last rows first: where the mask is causal they see the most keys, and short tasks at the end fill the gaps.
Part part_of(int64_t task, int64_t row_blocks, int64_t splits, int64_t heads_in_turns) {
  const int64_t tile = task / splits, turn = tile / heads_in_turns;
  return {turn / row_blocks * heads_in_turns + tile % heads_in_turns, row_blocks - 1 - turn % row_blocks,
          task % splits};
}

// In a fixed order, so that the sum does not depend on who finished first.
void merge_row(const Problem& problem, const TileRow& row, const Partials& partials, int64_t splits, int64_t index,
               float* sum) {
  float m = kNoSink;
  for (int64_t s = 0; s < splits; ++s) m = std::max(m, *partials.at(s, index).m);
  float l = 0;
  std::fill(sum, sum + problem.v_head_size, 0.0f);
  for (int64_t s = 0; s < splits; ++s) {
    const Partial part = partials.at(s, index);
    if (*part.l == 0) continue;
    const float factor = std::exp(*part.m - m);
    l += *part.l * factor;
    for (int64_t d = 0; d < problem.v_head_size; ++d) sum[d] += part.o[d] * factor;
  }
  const RowEnd end = finish_row(m, l, row.sink);
  if (row.lse != nullptr) *row.lse = end.lse;
  for (int64_t d = 0; d < problem.v_head_size; ++d) store(problem.dtype, row.y, d, sum[d] * end.factor);
}

}  // namespace

int64_t partial_bytes(const Problem& problem, int64_t splits) {
  if (splits == 1) return 0;
  return Partials(problem, splits, nullptr).floats() * static_cast<int64_t>(sizeof(float));
}

Status run_tiles(const Problem& problem, const Plan& plan, void* workspace, const Parallel& parallel) {
  const KernelTable& table = kernel_table(plan.isa);
  const TileKernel& kernel = plan.kernel == Kernel::kFewRows ? table.few_rows : table.tiled;
  const int64_t scratch_floats = kernel.scratch_floats(plan.tile_rows, problem.head_size, problem.v_head_size);
  const int64_t rows = rows_per_kv_head(problem);
  const int64_t row_blocks = (rows + plan.tile_rows - 1) / plan.tile_rows;
  const int64_t heads = problem.batch_size * problem.kv_num_heads;
  const Partials partials(problem, plan.splits, workspace);
  std::atomic<bool> out_of_memory{false};

  parallel(heads * row_blocks * plan.splits, [&](int64_t task) {
    const auto [head, block, split] = part_of(task, row_blocks, plan.splits, heads_in_turns(problem));
    float* scratch = thread_scratch(scratch_floats);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    const KvHead kv_head(problem, head / problem.kv_num_heads, head % problem.kv_num_heads);
    const int64_t first = block * plan.tile_rows;
    Tile tile = kv_head.tile();
    tile.rows = static_cast<int>(std::min(plan.tile_rows, rows - first));
    for (int r = 0; r < tile.rows; ++r) tile.row[r] = kv_head.row(first + r);
    if (plan.splits > 1) {
      keep_split(tile, split, plan.splits);
      tile.partial = partials.at(split, head * rows + first);
    }
    kernel.run(tile, scratch);
  });
  if (plan.splits > 1 && !out_of_memory) {
    parallel(heads, [&](int64_t head) {
      const KvHead kv_head(problem, head / problem.kv_num_heads, head % problem.kv_num_heads);
      float* sum = thread_scratch(problem.v_head_size);
      if (sum == nullptr) {
        out_of_memory = true;
        return;
      }
      for (int64_t r = 0; r < rows; ++r) {
        merge_row(problem, kv_head.row(r), partials, plan.splits, head * rows + r, sum);
      }
    });
  }
  if (out_of_memory) return Status::error("no memory for a tile of scores");
  return {};
}

}  // namespace flashonnx::cpu

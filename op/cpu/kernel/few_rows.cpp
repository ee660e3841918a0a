// The kernel for few query rows, as in decoding: lanes run along head_size, so that no lane idles for want of rows.
//
// K and V stream through once, a block of keys at a time, and serve all rows from L1 meanwhile. Same online softmax as
// the tiled kernel. Compiled once for each instruction set.
#include "op/cpu/kernel/few_rows.h"

#include "op/cpu/kernel/few_rows_products.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/scores.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

constexpr int64_t padded(int64_t columns) { return (columns + kPair - 1) / kPair * kPair; }

// Sizes in floats; rows of the padded length hold zeros past their end.
struct Scratch {
  Scratch(float* base, int64_t rows, int64_t head_size, int64_t v_head_size) {
    q = {base, padded(head_size)};
    o = {q.row(rows), padded(v_head_size)};
    scores = {o.row(rows), kFewRowsBlockKeys};
    k = scores.row(rows);
    v = k + kFewRowsBlockKeys * padded(head_size);
    floats = v + kFewRowsBlockKeys * padded(v_head_size) - base;
  }

  PackedRows q;       // (row, head_size), times q_scale
  PackedRows o;       // (row, v_head_size)
  PackedRows scores;  // (row, key), then probabilities
  float* k;           // (key, head_size), where they cannot be read in place
  float* v;           // (key, v_head_size)
  int64_t floats;
};

void clear(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

Vec lane_numbers() {
  alignas(64) float numbers[kLanes];
  for (int i = 0; i < kLanes; ++i) numbers[i] = static_cast<float>(i);
  return load(numbers);
}

float largest(Vec a) {
  alignas(64) float lanes[kLanes];
  store(lanes, a);
  float most = lanes[0];
  for (int i = 1; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

// Whether rows of so many values are read in place, rather than from a padded copy in float.
bool fills_pairs(int64_t columns) { return columns % kPair == 0; }

// kType: what the products read, which is float where rows are copied.
template <DType kType>
class FewRowsKernel {
 public:
  FewRowsKernel(const Tile& tile, float* scratch)
      : tile_(tile), scratch_(scratch, tile.rows, tile.head_size, tile.v_head_size) {}

  void run() {
    for (int r = 0; r < tile_.rows; ++r) start(r);
    for_each_block(tile_, span_of_any(tile_.row, tile_.rows), kFewRowsBlockKeys,
                   [this](const KeySegment& segment, KeySpan keys) { attend(segment, keys); });
    for (int r = 0; r < tile_.rows; ++r) finish(r);
  }

 private:
  void start(int r) {
    m_[r] = kNever;
    l_[r] = broadcast(0.0f);
    clear(scratch_.q.row(r), padded(tile_.head_size));
    for (int64_t d = 0; d < tile_.head_size; d += kLanes) {
      alignas(64) float values[kLanes];
      store(values, load_values(tile_.dtype, tile_.row[r].q, d, tile_.head_size - d) * broadcast(tile_.q_scale));
      for (int64_t i = 0; i < kLanes; ++i) scratch_.q.row(r)[paired<kType>(d + i)] = values[i];
    }
    clear(scratch_.o.row(r), padded(tile_.v_head_size));
  }

  void attend(const KeySegment& segment, KeySpan keys) {
    const KeySpan next = KeySpan{keys.end, keys.end + kFewRowsBlockKeys}.within({segment.begin, segment.end});
    const StoredRows k = stored_keys(segment, keys), v = stored_values(segment, keys);
    score(keys, load_rows(k, keys.size(), tile_.head_size, scratch_.k), prefetch(v, keys, tile_.v_head_size));
    for (int r = 0; r < tile_.rows; ++r) {
      if (needs_edit(tile_.row[r], keys)) edit(tile_.row[r], keys, scratch_.scores.row(r));
    }
    for (int r = 0; r < tile_.rows; ++r) factor_[r] = raise_maximum(r, keys.size());
    for (int r = 0; r < tile_.rows; ++r) exponentiate(r, keys.size());
    add_values(keys, load_rows(v, keys.size(), tile_.v_head_size, scratch_.v),
               prefetch(stored_keys(segment, next), next, tile_.head_size));
  }

  StoredRows stored_keys(const KeySegment& segment, KeySpan keys) const {
    return stored(segment.k, segment.k_row_stride, keys.begin - segment.begin);
  }

  StoredRows stored_values(const KeySegment& segment, KeySpan keys) const {
    return stored(segment.v, segment.v_row_stride, keys.begin - segment.begin);
  }

  StoredRows stored(const void* rows, int64_t stride, int64_t first) const {
    return {element(tile_.dtype, rows, first * stride), stride * bytes_of(tile_.dtype)};
  }

  Prefetch prefetch(const StoredRows& rows, KeySpan keys, int64_t columns) const {
    const int64_t bytes = bytes_of(tile_.dtype);
    const int64_t groups = (tile_.rows + kGroupRows - 1) / kGroupRows;
    return {rows, keys.size(), columns * bytes, kPair * bytes, groups};
  }

  StoredRows load_rows(const StoredRows& rows, int64_t count, int64_t columns, float* copy) {
    if (kType != DType::kFloat || (tile_.dtype == DType::kFloat && fills_pairs(columns))) return rows;
    copy_rows(tile_.dtype, rows.data, rows.stride / bytes_of(tile_.dtype), count, columns, copy, padded(columns));
    return {reinterpret_cast<const char*>(copy), padded(columns) * bytes_of(DType::kFloat)};
  }

  void score(KeySpan keys, const StoredRows& k, Prefetch next) {
    for_each_group([&](int first, auto rows) {
      next = score_group<kType, decltype(rows)::value>(k, keys.size(), padded(tile_.head_size), tile_.score_scale,
                                                       scratch_.q.from(first), next, scratch_.scores.from(first));
    });
  }

  void add_values(KeySpan keys, const StoredRows& v, Prefetch next) {
    for_each_group([&](int first, auto rows) {
      next = add_group_values<kType, decltype(rows)::value>(v, keys.size(), padded(tile_.v_head_size),
                                                            scratch_.scores.from(first), factor_ + first, next,
                                                            scratch_.o.from(first));
    });
  }

  // Calls body(first row, Constant<number of rows>).
  template <typename Body>
  void for_each_group(const Body& body) const {
    for (int first = 0; first < tile_.rows; first += kGroupRows) {
      const int left = tile_.rows - first;
      with_constant<kGroupRows>(left < kGroupRows ? left : kGroupRows, [&](auto rows) { body(first, rows); });
    }
  }

  bool needs_edit(const TileRow& row, KeySpan keys) const {
    const bool is_whole = keys.size() % kLanes == 0 && KeySpan{row.begin, row.end}.contains(keys);
    return !is_whole || tile_.softcap > 0 || tile_.has_alibi || tile_.has_bias || tile_.mask_dtype != DType::kUndefined;
  }

  // Softcap, ALiBi, mask and range; scores past the block's last key become -infinity.
  void edit(const TileRow& row, KeySpan keys, float* scores) {
    if (tile_.softcap > 0) apply_softcap(tile_.softcap, keys.size(), scores);
    const KeySpan allowed = KeySpan{row.begin, row.end}.within(keys);
    const Vec never = broadcast(kNever), zero = broadcast(0.0f), numbers = lane_numbers();
    const Vec begin = broadcast(static_cast<float>(allowed.begin - keys.begin));
    const Vec end = broadcast(static_cast<float>(allowed.end - keys.begin));
    const Vec position = broadcast(static_cast<float>(row.position - keys.begin));
    for (int64_t j = 0; j < keys.size(); j += kLanes) {
      const Vec index = numbers + broadcast(static_cast<float>(j));
      Vec score = load(scores + j);
      if (tile_.has_alibi) {
        const Vec ahead = index - position;
        score = fnma(broadcast(row.slope), max(ahead, zero - ahead), score);
      }
      if (tile_.has_bias) score = score + broadcast(row.bias);
      if (tile_.mask_dtype != DType::kUndefined) {
        score = masked(score, load_values(tile_.mask_dtype, row.mask, keys.begin + j, keys.size() - j));
      }
      store(scores + j, select(less(index, begin), never, select(less(index, end), score, never)));
    }
  }

  // Returns what the row's older probabilities, relative to the old maximum, shrink by.
  float raise_maximum(int r, int64_t count) {
    const float* scores = scratch_.scores.row(r);
    Vec most = broadcast(m_[r]);
    for (int64_t j = 0; j < count; j += kLanes) most = max(load(scores + j), most);
    const float m = largest(most);
    if (m == m_[r]) return 1;
    alignas(64) float factor[kLanes];
    store(factor, exp_nonpositive(broadcast(m_[r]) - broadcast(m)));
    m_[r] = m;
    return factor[0];
  }

  // Scores become probabilities relative to the row maximum.
  void exponentiate(int r, int64_t count) {
    float* scores = scratch_.scores.row(r);
    const Vec base = broadcast(m_[r] == kNever ? 0.0f : m_[r]);
    Vec sums = broadcast(0.0f);
    for (int64_t j = 0; j < count; j += kLanes) {
      const Vec p = exp_nonpositive(load(scores + j) - base);
      store(scores + j, p);
      sums = sums + p;
    }
    l_[r] = fma(l_[r], broadcast(factor_[r]), sums);
  }

  void finish(int r) {
    const TileRow& row = tile_.row[r];
    float* o = scratch_.o.row(r);
    if (tile_.partial.o != nullptr) {
      tile_.partial.m[r] = m_[r];
      tile_.partial.l[r] = sum(l_[r]);
      write(o, 1, DType::kFloat, tile_.partial.o + r * tile_.v_head_size);
      return;
    }
    const RowEnd end = finish_row(m_[r], sum(l_[r]), row.sink);
    if (row.lse != nullptr) *row.lse = end.lse;
    if (end.factor == 0) clear(o, tile_.v_head_size);  // its sums may be NaN, where V is
    write(o, end.factor, tile_.dtype, row.y);
  }

  void write(const float* o, float factor, DType dtype, void* out) {
    for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
      alignas(64) float values[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) values[i] = o[paired<kType>(d + i)];
      store_values(dtype, out, d, tile_.v_head_size - d, load(values) * broadcast(factor));
    }
  }

  const Tile& tile_;
  const Scratch scratch_;
  float m_[kMaxFewRows];
  float factor_[kMaxFewRows];  // what the sums before this block shrink by
  Vec l_[kMaxFewRows];         // the sum of its lanes
};

}  // namespace

void run_few_rows(const Tile& tile, float* scratch) {
  const bool in_place = fills_pairs(tile.head_size) && fills_pairs(tile.v_head_size);
  if (in_place && tile.dtype == DType::kFloat16) return FewRowsKernel<DType::kFloat16>(tile, scratch).run();
  if (in_place && tile.dtype == DType::kBFloat16) return FewRowsKernel<DType::kBFloat16>(tile, scratch).run();
  FewRowsKernel<DType::kFloat>(tile, scratch).run();
}

int64_t few_rows_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size) {
  return Scratch(nullptr, rows, head_size, v_head_size).floats;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

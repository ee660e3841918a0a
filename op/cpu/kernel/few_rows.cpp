// The kernel for few query rows, as in decoding: lanes run along head_size, so that no lane idles for want of rows.
//
// K and V stream through once, a block of keys at a time, and serve all rows meanwhile. Same online softmax as the
// tiled kernel. Compiled once for each instruction set.
#include "op/cpu/kernel/few_rows.h"

#include "op/cpu/kernel/few_rows_products.h"
#include "op/cpu/kernel/panel.h"
#include "op/cpu/kernel/scores.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

constexpr int64_t padded(int64_t columns) { return (columns + kPair - 1) / kPair * kPair; }

// Sizes in floats; rows of the padded length hold zeros past their end. For `rows` rows of whole groups.
struct Scratch {
  Scratch(float* base, int64_t rows, int64_t head_size, int64_t v_head_size)
      : q(base),
        o(q + rows * padded(head_size)),
        scores(o + rows * padded(v_head_size)),
        k(scores + rows * kMaxFewRowsBlockKeys),
        v(k + kMaxFewRowsBlockKeys * padded(head_size)),
        floats(v + kMaxFewRowsBlockKeys * padded(v_head_size) - base) {}

  float* q;       // (group, vector of head_size, row, kLanes), times q_scale
  float* o;       // (row, v_head_size)
  float* scores;  // (group, step, kLanes), then probabilities
  float* k;       // (key, head_size), where they cannot be read in place
  float* v;       // (key, v_head_size)
  int64_t floats;
};

void clear(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

// Whether rows of so many values are read in place, rather than from a padded copy in float.
bool fills_pairs(int64_t columns) { return columns % kPair == 0; }

// Groups of R rows; those past the tile's last repeat it. kType: what the products read, which is float where rows are
// copied.
template <DType kType, int R>
class FewRowsKernel {
 public:
  FewRowsKernel(const Tile& tile, float* scratch)
      : tile_(tile),
        groups_((tile.rows + R - 1) / R),
        scratch_(scratch, groups_ * R, tile.head_size, tile.v_head_size) {}

  void run() {
    start();
    for_each_block(tile_, span_of_any(tile_.row, tile_.rows), kFewRowsBlockKeys<kType>,
                   [this](const KeySegment& segment, KeySpan keys) { attend(segment, keys); });
    for (int r = 0; r < tile_.rows; ++r) finish(r);
  }

 private:
  static constexpr int kKeys = kStepKeys<R>;

  void start() {
    for (int g = 0; g < groups_; ++g) {
      m_[g] = broadcast(kNever);
      l_[g] = broadcast(0.0f);
    }
    clear(scratch_.q, groups_ * R * padded(tile_.head_size));
    clear(scratch_.o, groups_ * R * padded(tile_.v_head_size));
    for (int r = 0; r < tile_.rows; ++r) pack_query(r);
  }

  void pack_query(int r) {
    float* q = scratch_.q + r / R * R * padded(tile_.head_size) + r % R * kLanes;
    for (int64_t d = 0; d < tile_.head_size; d += kLanes, q += R * kLanes) {
      store(q, load_query(tile_.row[r].q, d) * broadcast(tile_.q_scale));
    }
  }

  // In the order of the keys.
  Vec load_query(const void* q, int64_t d) const {
    if constexpr (kType == DType::kFloat) return load_values(tile_.dtype, q, d, tile_.head_size - d);
    return load_of_pair<kType>(static_cast<const char*>(q), d / kPair * kPair, static_cast<int>(d % kPair / kLanes));
  }

  // Half of the next block is asked for while K is multiplied, and half while V is.
  void attend(const KeySegment& segment, KeySpan keys) {
    const KeySpan next = KeySpan{keys.end, keys.end + kFewRowsBlockKeys<kType>}.within({segment.begin, segment.end});
    const int64_t middle = next.begin + next.size() / 2;
    const StoredRows k = stored(segment.k, segment.k_row_stride, keys.begin - segment.begin);
    const StoredRows v = stored(segment.v, segment.v_row_stride, keys.begin - segment.begin);
    score_keys<kType, R>(load_rows(k, keys.size(), tile_.head_size, scratch_.k), keys.size(), padded(tile_.head_size),
                         tile_.score_scale, groups_, scratch_.q, NextKeys(tile_, segment, {next.begin, middle}),
                         scratch_.scores);
    for (int g = 0; g < groups_; ++g) {
      if (needs_edit(keys)) edit(g, keys);
      fold(g, keys.size());
    }
    add_values<kType, R>(load_rows(v, keys.size(), tile_.v_head_size, scratch_.v), keys.size(),
                         padded(tile_.v_head_size), groups_, scratch_.scores, factor_,
                         NextKeys(tile_, segment, {middle, next.end}), scratch_.o);
  }

  StoredRows stored(const void* rows, int64_t stride, int64_t first) const {
    return {element(tile_.dtype, rows, first * stride), stride * bytes_of(tile_.dtype)};
  }

  StoredRows load_rows(const StoredRows& rows, int64_t count, int64_t columns, float* copy) {
    if (kType != DType::kFloat || (tile_.dtype == DType::kFloat && fills_pairs(columns))) return rows;
    copy_rows(tile_.dtype, rows.data, rows.stride / bytes_of(tile_.dtype), count, columns, copy, padded(columns));
    return {reinterpret_cast<const char*>(copy), padded(columns) * bytes_of(DType::kFloat)};
  }

  bool needs_edit(KeySpan keys) const {
    if (tile_.softcap > 0 || tile_.has_alibi || tile_.has_bias || tile_.mask_dtype != DType::kUndefined) return true;
    if (keys.size() % kKeys != 0) return true;
    for (int r = 0; r < tile_.rows; ++r) {
      if (!KeySpan{tile_.row[r].begin, tile_.row[r].end}.contains(keys)) return true;
    }
    return false;
  }

  // The tile's row that row r of group g is, or repeats.
  const TileRow& row(int g, int r) const {
    const int index = g * R + r;
    return tile_.row[index < tile_.rows ? index : tile_.rows - 1];
  }

  // A vector of get(row of the group, key of the step).
  template <typename Get>
  static Vec of_lanes(const Get& get) {
    alignas(64) float lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = get(i / kKeys, i % kKeys);
    return load(lanes);
  }

  float* scores_of(int g) const { return scratch_.scores + g * R * kFewRowsBlockKeys<kType>; }
  static int64_t steps(int64_t count) { return (count + kKeys - 1) / kKeys; }

  // Softcap, ALiBi, mask and range; scores past the block's last key become -infinity.
  void edit(int g, KeySpan keys) {
    float* scores = scores_of(g);
    if (tile_.softcap > 0) apply_softcap(tile_.softcap, steps(keys.size()) * kLanes, scores);
    const auto relative = [&](int64_t key) { return static_cast<float>(key - keys.begin); };
    const auto allowed = [&](int r) { return KeySpan{row(g, r).begin, row(g, r).end}.within(keys); };
    const Vec begin = of_lanes([&](int r, int) { return relative(allowed(r).begin); });
    const Vec end = of_lanes([&](int r, int) { return relative(allowed(r).end); });
    const Vec position = of_lanes([&](int r, int) { return relative(row(g, r).position); });
    const Vec slope = of_lanes([&](int r, int) { return row(g, r).slope; });
    const Vec bias = of_lanes([&](int r, int) { return row(g, r).bias; });
    const Vec numbers = of_lanes([](int, int n) { return static_cast<float>(n); });
    const Vec never = broadcast(kNever), zero = broadcast(0.0f);
    for (int64_t j = 0; j < keys.size(); j += kKeys, scores += kLanes) {
      const Vec index = numbers + broadcast(static_cast<float>(j));
      Vec score = load(scores);
      if (tile_.has_alibi) {
        const Vec ahead = index - position;
        score = fnma(slope, max(ahead, zero - ahead), score);
      }
      if (tile_.has_bias) score = score + bias;
      if (tile_.mask_dtype != DType::kUndefined) {
        score = masked(score, load_mask(g, keys.begin + j, keys.size() - j));
      }
      store(scores, select(less(index, begin), never, select(less(index, end), score, never)));
    }
  }

  // The mask's values of a step's keys, of which there are at most `left`; 0 past those.
  Vec load_mask(int g, int64_t key, int64_t left) const {
    const int64_t count = left < kKeys ? left : kKeys;
    alignas(64) float lanes[2 * kLanes];
    // Of each vector a row's few values are kept: the next row's overwrites the rest.
    for (int r = 0; r < R; ++r) store(lanes + r * kKeys, load_values(tile_.mask_dtype, row(g, r).mask, key, count));
    return load(lanes);
  }

  // Scores become probabilities relative to the new row maximum; the statistics follow.
  void fold(int g, int64_t count) {
    float* scores = scores_of(g);
    const int64_t floats = steps(count) * kLanes;
    const Vec log2_e = broadcast(kLog2E);
    Vec most = m_[g];
    for (int64_t i = 0; i < floats; i += kLanes) most = max(load(scores + i), most);
    const Vec m = max_of_groups<kKeys>(most);
    // A row that has seen no key: 2^(-inf - 0) is 0, where 2^(-inf - -inf) would be NaN.
    const Vec base = select(equal(m, broadcast(kNever)), broadcast(0.0f), m);
    Vec sums = broadcast(0.0f);
    for (int64_t i = 0; i < floats; i += kLanes) {
      const Vec p = exp2_nonpositive((load(scores + i) - base) * log2_e);
      store(scores + i, p);
      sums = sums + p;
    }
    const Vec factor = exp2_nonpositive((m_[g] - base) * log2_e);
    l_[g] = fma(l_[g], factor, sums);
    m_[g] = m;
    alignas(64) float factors[kLanes];
    store(factors, factor);
    for (int r = 0; r < R; ++r) factor_[g * R + r] = factors[r * kKeys];
  }

  void finish(int r) {
    alignas(64) float m[kLanes], l[kLanes];
    store(m, m_[r / R]);
    store(l, l_[r / R]);
    const int lane = r % R * kKeys;
    float sum = 0;
    for (int n = 0; n < kKeys; ++n) sum += l[lane + n];
    const TileRow& row = tile_.row[r];
    float* o = scratch_.o + r * padded(tile_.v_head_size);
    if (tile_.partial.o != nullptr) {
      tile_.partial.m[r] = m[lane];
      tile_.partial.l[r] = sum;
      write(o, 1, DType::kFloat, tile_.partial.o + r * tile_.v_head_size);
      return;
    }
    const RowEnd end = finish_row(m[lane], sum, row.sink);
    if (row.lse != nullptr) *row.lse = end.lse;
    if (end.factor == 0) clear(o, tile_.v_head_size);  // its sums may be NaN, where V is
    write(o, end.factor, tile_.dtype, row.y);
  }

  void write(const float* o, float factor, DType dtype, void* out) {
    for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
      alignas(64) float values[kLanes];
      for (int64_t i = 0; i < kLanes; i += kTogether) {
        std::memcpy(values + i, o + paired<kType>(d + i), kTogether * sizeof(float));
      }
      store_values(dtype, out, d, tile_.v_head_size - d, load(values) * broadcast(factor));
    }
  }

  static constexpr int kMaxGroups = (kMaxFewRows + R - 1) / R;

  const Tile& tile_;
  const int groups_;
  const Scratch scratch_;
  Vec m_[kMaxGroups], l_[kMaxGroups];  // by lane: the row's maximum; the sum of the lane's probabilities
  float factor_[kMaxFewRows];          // what the sums before this block shrink by
};

template <DType kType>
void run(const Tile& tile, float* scratch) {
  if (tile.rows == 1) return FewRowsKernel<kType, 1>(tile, scratch).run();
  if (tile.rows == 2) return FewRowsKernel<kType, 2>(tile, scratch).run();
  FewRowsKernel<kType, 4>(tile, scratch).run();
}

}  // namespace

void run_few_rows(const Tile& tile, float* scratch) {
  const bool in_place = fills_pairs(tile.head_size) && fills_pairs(tile.v_head_size);
  if (in_place && tile.dtype == DType::kFloat16) return run<DType::kFloat16>(tile, scratch);
  if (in_place && tile.dtype == DType::kBFloat16) return run<DType::kBFloat16>(tile, scratch);
  run<DType::kFloat>(tile, scratch);
}

int64_t few_rows_scratch_floats(int64_t /* rows */, int64_t head_size, int64_t v_head_size) {
  return Scratch(nullptr, kMaxFewRows, head_size, v_head_size).floats;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

// The kernel for few query rows, as in decoding: lanes run along head_size, so that no lane idles for want of rows.
//
// K and V stream through once, kLanes keys at a time, and serve all rows from L1 meanwhile. Same online softmax as the
// tiled kernel. Compiled once for each instruction set.
#include "op/cpu/kernel/few_rows.h"

#include "op/cpu/kernel/scores.h"

namespace flashonnx::cpu::FLASHONNX_ISA {
namespace {

constexpr int64_t padded(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

// Sizes in floats; rows of the padded length hold zeros past their end.
struct Scratch {
  Scratch(float* base, int64_t rows, int64_t head_size, int64_t v_head_size) {
    q = base;
    o = q + rows * padded(head_size);
    k = o + rows * padded(v_head_size);
    v = k + kBlockKeys * padded(head_size);
    scores = v + kBlockKeys * padded(v_head_size);
    floats = scores + kBlockKeys - base;
  }

  float* q;       // (row, head_size), times q_scale
  float* o;       // (row, v_head_size)
  float* k;       // (key, head_size), where they cannot be read in place
  float* v;       // (key, v_head_size)
  float* scores;  // (key) of one row
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

class FewRowsKernel {
 public:
  FewRowsKernel(const Tile& tile, float* scratch)
      : tile_(tile), scratch_(scratch, tile.rows, tile.head_size, tile.v_head_size) {}

  void run() {
    for (int r = 0; r < tile_.rows; ++r) {
      m_[r] = kNever;
      l_[r] = 0;
      float* q = scratch_.q + r * padded(tile_.head_size);
      copy_rows(tile_.dtype, tile_.row[r].q, 0, 1, tile_.head_size, q, padded(tile_.head_size));
      scale_scores(tile_.q_scale, padded(tile_.head_size), q);
    }
    clear(scratch_.o, tile_.rows * padded(tile_.v_head_size));
    for_each_block(
        tile_, span_of_any(tile_.row, tile_.rows), kBlockKeys, [this](const KeySegment& segment, KeySpan keys) {
          const int64_t first = keys.begin - segment.begin;
          const Rows k = load_rows(segment.k, segment.k_row_stride, first, keys.size(), tile_.head_size, scratch_.k);
          const Rows v = load_rows(segment.v, segment.v_row_stride, first, keys.size(), tile_.v_head_size, scratch_.v);
          for (int r = 0; r < tile_.rows; ++r) {
            prefetch_part(segment, {keys.end, keys.end + kBlockKeys}, r);
            attend(r, k, v, keys);
          }
        });
    for (int r = 0; r < tile_.rows; ++r) finish(r);
  }

 private:
  Rows load_rows(const void* rows, int64_t stride, int64_t first, int64_t count, int64_t columns, float* copy) {
    if (tile_.dtype == DType::kFloat && columns % kLanes == 0) {
      return {static_cast<const float*>(rows) + first * stride, stride};
    }
    copy_rows(tile_.dtype, element(tile_.dtype, rows, first * stride), stride, count, columns, copy, padded(columns));
    return {copy, padded(columns)};
  }

  // While the first row of a tile reads a block from memory, the others only compute: they ask for the next block.
  void prefetch_part(const KeySegment& segment, KeySpan next, int part) const {
    next = next.within({segment.begin, segment.end});
    if (next.empty()) return;
    const int64_t begin = next.begin + next.size() * part / tile_.rows;
    const int64_t end = next.begin + next.size() * (part + 1) / tile_.rows;
    for (int64_t j = begin - segment.begin; j < end - segment.begin; ++j) {
      prefetch_row(element(tile_.dtype, segment.k, j * segment.k_row_stride), tile_.head_size);
      prefetch_row(element(tile_.dtype, segment.v, j * segment.v_row_stride), tile_.v_head_size);
    }
  }

  void prefetch_row(const char* row, int64_t columns) const {
    constexpr int64_t kCacheLine = 64;
    for (int64_t byte = 0; byte < columns * bytes_of(tile_.dtype); byte += kCacheLine)
      __builtin_prefetch(row + byte, 0, 2);
  }

  void attend(int r, const Rows& k, const Rows& v, KeySpan keys) {
    const TileRow& row = tile_.row[r];
    if (KeySpan{row.begin, row.end}.within(keys).empty()) return;
    score(r, k, keys.size());
    edit(row, keys);
    const float factor = fold(r, keys.size());
    add_values(r, v, keys.size(), factor);
  }

  // kLanes keys at a time: their sums lie in a vector each, and a transpose brings them together.
  void score(int r, const Rows& k, int64_t count) {
    const float* q = scratch_.q + r * padded(tile_.head_size);
    for (int64_t j = 0; j < count; j += kLanes) {
      const float* key[kLanes];
      Vec sums[kLanes];
      for (int n = 0; n < kLanes; ++n) {
        key[n] = k.row(j + n < count ? j + n : count - 1);
        sums[n] = broadcast(0.0f);
      }
      for (int64_t d = 0; d < tile_.head_size; d += kLanes) {
        const Vec q_part = load(q + d);
        for (int n = 0; n < kLanes; ++n) sums[n] = fma(q_part, load(key[n] + d), sums[n]);
      }
      transpose(sums);
      Vec total = sums[0];
      for (int n = 1; n < kLanes; ++n) total = total + sums[n];
      store(scratch_.scores + j, total * broadcast(tile_.score_scale));
    }
  }

  // Softcap, ALiBi, mask and range; scores past the block's last key become -infinity.
  void edit(const TileRow& row, KeySpan keys) {
    if (tile_.softcap > 0) apply_softcap(tile_.softcap, keys.size(), scratch_.scores);
    const KeySpan allowed = KeySpan{row.begin, row.end}.within(keys);
    const Vec never = broadcast(kNever), zero = broadcast(0.0f), numbers = lane_numbers();
    const Vec begin = broadcast(static_cast<float>(allowed.begin - keys.begin));
    const Vec end = broadcast(static_cast<float>(allowed.end - keys.begin));
    const Vec position = broadcast(static_cast<float>(row.position - keys.begin));
    for (int64_t j = 0; j < keys.size(); j += kLanes) {
      const Vec index = numbers + broadcast(static_cast<float>(j));
      Vec score = load(scratch_.scores + j);
      if (tile_.has_alibi) {
        const Vec ahead = index - position;
        score = fnma(broadcast(row.slope), max(ahead, zero - ahead), score);
      }
      if (tile_.has_bias) score = score + broadcast(row.bias);
      if (tile_.mask_dtype != DType::kUndefined) {
        score = masked(score, load_values(tile_.mask_dtype, row.mask, keys.begin + j, keys.size() - j));
      }
      store(scratch_.scores + j, select(less(index, begin), never, select(less(index, end), score, never)));
    }
  }

  // Scores become probabilities relative to the new row maximum; returns what the older ones shrink by.
  float fold(int r, int64_t count) {
    Vec most = broadcast(m_[r]);
    for (int64_t j = 0; j < count; j += kLanes) most = max(load(scratch_.scores + j), most);
    const float m = largest(most);
    const Vec base = broadcast(m == kNever ? 0.0f : m);
    Vec sums = broadcast(0.0f);
    for (int64_t j = 0; j < count; j += kLanes) {
      const Vec p = exp_nonpositive(load(scratch_.scores + j) - base);
      store(scratch_.scores + j, p);
      sums = sums + p;
    }
    alignas(64) float factor[kLanes];
    store(factor, exp_nonpositive(broadcast(m_[r]) - base));
    m_[r] = m;
    l_[r] = l_[r] * factor[0] + sum(sums);
    return factor[0];
  }

  void add_values(int r, const Rows& v, int64_t count, float factor) {
    float* o = scratch_.o + r * padded(tile_.v_head_size);
    if (factor != 1) scale_scores(factor, padded(tile_.v_head_size), o);
    int64_t j = 0;
    for (; j + kKeysTogether <= count; j += kKeysTogether) add_values_of<kKeysTogether>(v, j, o);
    for (; j < count; ++j) add_values_of<1>(v, j, o);
  }

  // o += p V for N keys from j on.
  template <int N>
  void add_values_of(const Rows& v, int64_t j, float* o) {
    Vec p[N];
    const float* values[N];
    for (int n = 0; n < N; ++n) {
      p[n] = broadcast(scratch_.scores[j + n]);
      values[n] = v.row(j + n);
    }
    for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
      Vec sum = load(o + d);
      for (int n = 0; n < N; ++n) sum = fma(p[n], load(values[n] + d), sum);
      store(o + d, sum);
    }
  }

  void finish(int r) {
    const TileRow& row = tile_.row[r];
    float* o = scratch_.o + r * padded(tile_.v_head_size);
    if (tile_.partial.o != nullptr) {
      tile_.partial.m[r] = m_[r];
      tile_.partial.l[r] = l_[r];
      write(o, DType::kFloat, tile_.partial.o + r * tile_.v_head_size);
      return;
    }
    const RowEnd end = finish_row(m_[r], l_[r], row.sink);
    if (row.lse != nullptr) *row.lse = end.lse;
    scale_scores(end.factor, padded(tile_.v_head_size), o);
    if (end.factor == 0) clear(o, tile_.v_head_size);  // its sums may be NaN, where V is
    write(o, tile_.dtype, row.y);
  }

  void write(const float* o, DType dtype, void* out) {
    for (int64_t d = 0; d < tile_.v_head_size; d += kLanes) {
      store_values(dtype, out, d, tile_.v_head_size - d, load(o + d));
    }
  }

  static constexpr int kKeysTogether = 4;

  const Tile& tile_;
  const Scratch scratch_;
  float m_[kMaxFewRows], l_[kMaxFewRows];
};

}  // namespace

void run_few_rows(const Tile& tile, float* scratch) { FewRowsKernel(tile, scratch).run(); }

int64_t few_rows_scratch_floats(int64_t rows, int64_t head_size, int64_t v_head_size) {
  return Scratch(nullptr, rows, head_size, v_head_size).floats;
}

}  // namespace flashonnx::cpu::FLASHONNX_ISA

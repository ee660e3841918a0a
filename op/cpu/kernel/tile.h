// What passes between the common code, which knows the contract, and the kernels, which know one instruction set.
//
// Plain data and no inline function: the kernels' files are compiled with wider instructions than the rest of the
// library, and an inline function shared with them could be linked in their version and then run anywhere.
#pragma once

#include <cstdint>

#include "op/core/problem.h"

namespace flashonnx::cpu {

constexpr int kMaxTileRows = 128;
constexpr int kMaxFewRows = 8;

// A query row: query i of one of the query heads that share the tile's KV head.
struct TileRow {
  const void* q;     // head_size values
  void* y;           // v_head_size values
  float* lse;        // null: not asked for
  const void* mask;  // the row's mask value for key 0, where each key has its own
  int64_t begin;     // keys [begin, end) are allowed by all but the mask; begin >= end: none
  int64_t end;
  int64_t position;  // i + offset, the key that faces this query
  float slope;       // of ALiBi
  float bias;        // added to all scores of the row
  float sink;        // logit that joins the denominator; -infinity: none
};

// A run of keys whose rows lie evenly in memory: the past ones, or the new ones.
struct KeySegment {
  int64_t begin;  // first key
  int64_t end;
  const void* k;         // row of key `begin`
  const void* v;         //
  int64_t k_row_stride;  // in elements
  int64_t v_row_stride;
};

// Unnormalised results of the keys of one split, (rows, v_head_size) and (rows).
struct Partial {
  float* o;  // null: the tile sees all its keys, and writes y and lse itself
  float* m;  // row maximum
  float* l;  // row sum of exp(score - m)
};

struct Tile {
  DType dtype;  // of q, k, v, y
  int64_t head_size;
  int64_t v_head_size;
  float q_scale;      // a power of two: Q times it is exact
  float score_scale;  // in [1, 2): what is left of the scale, for Q K^T
  float softcap;      // 0: none

  DType mask_dtype;     // kUndefined: no mask with a value for each key
  bool mask_is_shared;  // all rows have the same mask values
  bool has_alibi;
  bool has_bias;

  int segments;
  KeySegment segment[2];
  Partial partial;

  int rows;
  TileRow row[kMaxTileRows];
};

// What a row's statistics come to at its end, sink included: y = factor * o.
struct RowEnd {
  float factor;
  float lse;
};
RowEnd finish_row(float m, float l, float sink, bool needs_lse = true);

// A kernel, and the floats of scratch, aligned to 64 bytes, that it wants for a tile.
struct TileKernel {
  void (*run)(const Tile& tile, float* scratch);
  int64_t (*scratch_floats)(int64_t rows, int64_t head_size, int64_t v_head_size);
};

// Multiply-adds that wait for nothing: each round replaces each of `sums` floats x, kMaxFmaSums at most, by x / 2 + 1.
constexpr int64_t kMaxFmaSums = 192;
struct FmaPeak {
  void (*run)(int64_t rounds, float* sums);
  int64_t sums;
};

// The kernels of one instruction set. Those that only multiply bfloat16 have a tiled one for it and
// nothing else.
struct KernelTable {
  TileKernel tiled;     // Kernel::kTiled
  TileKernel few_rows;  // Kernel::kFewRows, for at most kMaxFewRows rows
  int64_t panel_rows;   // rows that the tiled kernel computes together: use multiples of it
  FmaPeak fma_peak;
};

namespace generic {
extern const KernelTable kKernels;
}
namespace avx2 {
extern const KernelTable kKernels;
}
namespace avx512 {
extern const KernelTable kKernels;
}
namespace avx512_bf16 {
extern const KernelTable kKernels;
}
namespace amx {
extern const KernelTable kKernels;
}
namespace amx_emulated {
extern const KernelTable kKernels;
}

}  // namespace flashonnx::cpu

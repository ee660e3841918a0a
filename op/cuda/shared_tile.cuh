// Tiles of rows in shared memory that warps load operands from: panels of 128 bytes a row, 16-byte chunks swizzled by
// row so that what a warp reads at once lies in different banks.
//
// An address is made of a part that differs between lanes, worked out once, and of constants that one XOR and the
// instruction itself add: worked out whole for each access, addresses would take longer than the products.
#pragma once

#include "op/cuda/fragments.cuh"

namespace flashonnx::cuda {

// The part that differs: where a lane finds its own piece of a tile's first operand, or of what it copies.
struct LaneAddress {
  uint32_t address;
};

template <typename Element, int kRows_, int kColumns>
struct SharedTile {
  static constexpr bool kWide = sizeof(Element) == 4;
  static constexpr int kRows = kRows_;
  static constexpr int kChunk = 16 / sizeof(Element);  // elements of 16 bytes
  static constexpr int kRowBytes = 128;                // of a panel
  static constexpr int kPanelColumns = 8 * kChunk;
  static constexpr int kPanels = (kColumns + kPanelColumns - 1) / kPanelColumns;
  alignas(128) Element data[kPanels * kRows * kPanelColumns];

  __device__ LaneAddress chunk(int row, int chunk) {
    return {shared_address(data) + row * kRowBytes + (chunk ^ swizzle(row)) * 16};
  }

  // `row` and `chunk` on from the lane's own, with which they have no bit in common, so that swizzles add by XOR.
  static __device__ uint32_t at(LaneAddress lane, int row, int chunk) {
    return (lane.address ^ (((chunk % 8) ^ swizzle(row)) * 16)) + chunk / 8 * kRows * kRowBytes + row * kRowBytes;
  }

  // For load_a of the rows from `row` on. Of floats a thread takes four columns side by side, here and in
  // load_b_of_rows: which of the 16 is which does not matter to a sum over all.
  __device__ LaneAddress lane_of_a(int row) {
    const int lane = threadIdx.x % 32;
    return kWide ? chunk(row + lane / 4, lane % 4) : chunk(row + lane % 16, lane / 16);
  }

  // The A operand at (row, 16 * step): 16 rows by 16 columns.
  static __device__ void load_a(AFragment<Element>& a, LaneAddress lane, int row, int step) {
    if constexpr (kWide) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float4 values = load_four(at(lane, row + 8 * r, 4 * step));
        a.set(r, values.x);
        a.set(2 + r, values.y);
        a.set(4 + r, values.z);
        a.set(6 + r, values.w);
      }
    } else {
      load_matrices(a.words, at(lane, row, 2 * step));
    }
  }

  // For load_b_of_rows.
  __device__ LaneAddress lane_of_rows() {
    const int lane = threadIdx.x % 32;
    return kWide ? chunk(lane / 4, lane % 4) : chunk(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  }

  // The B operand of rows [row, row + 16) taken as columns (K^T).
  static __device__ void load_b_of_rows(BFragment<Element>& b, LaneAddress lane, int row, int step) {
    if constexpr (kWide) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float4 values = load_four(at(lane, row + 8 * n, 4 * step));
        b.set(4 * n, values.x);
        b.set(4 * n + 1, values.y);
        b.set(4 * n + 2, values.z);
        b.set(4 * n + 3, values.w);
      }
    } else {
      load_matrices(b.words, at(lane, row, 2 * step));
    }
  }

  // For load_b_of_columns.
  __device__ LaneAddress lane_of_columns() {
    const int lane = threadIdx.x % 32;
    if constexpr (!kWide) return chunk(lane % 16, lane / 16);
    return {chunk(lane % 4 * 2, lane / 16).address + lane / 4 % 4 * 4};
  }

  // The B operand of rows [row, row + 16) taken as k (V), for columns 16 * step and the next 16.
  static __device__ void load_b_of_columns(BFragment<Element>& b, LaneAddress lane, int row, int step) {
    if constexpr (kWide) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        b.set(i, load_one(at(lane, row + i / 2 % 2 * 8 + i % 2, 4 * step + 2 * (i / 4))));
      }
    } else {
      load_matrices_transposed(b.words, at(lane, row, 2 * step));
    }
  }

 private:
  // Eight rows of one chunk each, as ldmatrix reads 16-bit matrices, lie in different banks; of floats so do two rows
  // of four chunks each, and two chunks of every second row.
  static __device__ int swizzle(int row) {
    if constexpr (kWide) return ((row / 2 % 4) ^ (row % 2 * 2)) * 2;
    return row % 8;
  }
};

// One thread's share where kThreads copy tiles of a view's rows together: of every kRowsAtOnce-th row, one chunk of
// each panel.
template <typename Element, int kThreads>
struct RowCopier {
  static constexpr int kChunk = 16 / sizeof(Element);
  static constexpr int kRowsAtOnce = kThreads / 8;

  const Element* source;  // this thread's chunk in its first row of the first tile
  int64_t row_stride;
  int row;      // its first, in a tile
  int column;   // in a panel
  int columns;  // of the view
  bool vectors;

  RowCopier() = default;

  // `vectors`: rows of the view can be read 16 bytes at a time, which then arrive asynchronously; otherwise elements
  // are copied one by one.
  __device__ RowCopier(const Element* first, int64_t row_stride, int64_t columns, bool vectors, int thread)
      : row_stride(row_stride),
        row(thread / 8),
        column(thread % 8 * kChunk),
        columns(static_cast<int>(columns)),
        vectors(vectors) {
    source = first + row * row_stride + column;
  }

  // Copies rows [first, first + Tile::kRows). Those at and past `end`, and columns past the view's, become zeros.
  template <typename Tile>
  __device__ void load(Tile& tile, int first, int end) const {
    static_assert(Tile::kRows % kRowsAtOnce == 0);
    const Element* from = source + first * row_stride;
    const int rows = end - first - row;
    const LaneAddress lane = tile.chunk(row, column / kChunk);
    if (vectors) {
#pragma unroll
      for (int i = 0; i < Tile::kRows; i += kRowsAtOnce) {
#pragma unroll
        for (int panel = 0; panel < Tile::kPanels; ++panel) {
          const int past = panel * Tile::kPanelColumns;
          copy_16_bytes(Tile::at(lane, i, 8 * panel), from + past, i < rows && column + past < columns);
        }
        from += kRowsAtOnce * row_stride;
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < Tile::kRows; i += kRowsAtOnce) {
#pragma unroll 1
        for (int panel = 0; panel < Tile::kPanels; ++panel) {
          const int past = panel * Tile::kPanelColumns;
          store_16_bytes(Tile::at(lane, i, 8 * panel), elements(from + past, i < rows ? columns - column - past : 0));
        }
        from += kRowsAtOnce * row_stride;
      }
    }
  }

 private:
  // The first `count` of a chunk, then zeros.
  static __device__ uint4 elements(const Element* from, int count) {
    alignas(16) Element values[kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) values[c] = c < count ? from[c] : static_cast<Element>(0.f);
    return *reinterpret_cast<const uint4*>(values);
  }
};

}  // namespace flashonnx::cuda

// Tiles of rows in shared memory that warps load operands from: panels of 128 bytes a row, 16-byte chunks swizzled by
// row so that what a warp reads at once lies in different banks.
#pragma once

#include "op/cuda/fragments.cuh"

namespace flashonnx::cuda {

template <typename Element, int kRows, int kColumns>
struct SharedTile {
  static constexpr bool kWide = sizeof(Element) == 4;
  static constexpr int kChunk = 16 / sizeof(Element);  // elements of 16 bytes
  static constexpr int kPanelColumns = 8 * kChunk;
  static constexpr int kPanels = (kColumns + kPanelColumns - 1) / kPanelColumns;
  alignas(128) Element data[kPanels * kRows * kPanelColumns];

  __device__ Element* chunk(int row, int chunk) {
    return data + (chunk / 8 * kRows + row) * kPanelColumns + ((chunk % 8) ^ swizzle(row)) * kChunk;
  }

  // Rows and columns at and past `rows` and `columns` become zeros. `vectors`: the source allows 16-byte reads, which
  // then arrive asynchronously; otherwise elements are copied one by one. `thread` of kThreads does its share.
  template <int kThreads>
  __device__ void load(const Element* source, int64_t row_stride, int rows, int columns, bool vectors, int thread) {
    static_assert(kColumns % kChunk == 0);
    constexpr int kRowChunks = kColumns / kChunk;
    constexpr int kChunks = kRows * kRowChunks;
    if (vectors) {
#pragma unroll
      for (int i = 0; i < (kChunks + kThreads - 1) / kThreads; ++i) {
        const int index = i * kThreads + thread;
        const int row = index / kRowChunks;
        const int column = index % kRowChunks * kChunk;
        if (kChunks % kThreads != 0 && index >= kChunks) break;
        const bool inside = row < rows && column < columns;
        copy_16_bytes(chunk(row, column / kChunk), inside ? source + row * row_stride + column : source, inside);
      }
    } else {
#pragma unroll 1
      for (int index = thread; index < kChunks; index += kThreads) {
        copy_elements(source, row_stride, rows, columns, index / kRowChunks, index % kRowChunks * kChunk);
      }
    }
  }

  // The A operand at (row, 16 * step): 16 rows by 16 columns. Of floats a thread takes four columns side by side, here
  // and in load_b_of_rows: which of the 16 is which does not matter to a sum over all.
  __device__ void load_a(AFragment<Element>& a, int row, int step) {
    const int lane = threadIdx.x % 32;
    if constexpr (kWide) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float4 values = four(row + lane / 4 + 8 * r, 4 * step + lane % 4);
        a.set(r, values.x);
        a.set(2 + r, values.y);
        a.set(4 + r, values.z);
        a.set(6 + r, values.w);
      }
    } else {
      load_matrices(a.words, chunk(row + lane % 16, 2 * step + lane / 16));
    }
  }

  // The B operand of rows [row, row + 16) taken as columns (K^T).
  __device__ void load_b_of_rows(BFragment<Element>& b, int row, int step) {
    const int lane = threadIdx.x % 32;
    if constexpr (kWide) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float4 values = four(row + lane / 4 + 8 * n, 4 * step + lane % 4);
        b.set(4 * n, values.x);
        b.set(4 * n + 1, values.y);
        b.set(4 * n + 2, values.z);
        b.set(4 * n + 3, values.w);
      }
    } else {
      load_matrices(b.words, chunk(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    }
  }

  // The B operand of rows [row, row + 16) taken as k (V), for columns 16 * step and the next 16.
  __device__ void load_b_of_columns(BFragment<Element>& b, int row, int step) {
    const int lane = threadIdx.x % 32;
    if constexpr (kWide) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int column = 16 * step + 8 * (i / 4) + lane / 4;
        b.set(i, chunk(row + i / 2 % 2 * 8 + lane % 4 * 2 + i % 2, column / kChunk)[column % kChunk]);
      }
    } else {
      load_matrices_transposed(b.words, chunk(row + lane % 16, 2 * step + lane / 16));
    }
  }

 private:
  // Eight rows of one chunk each, as ldmatrix reads 16-bit matrices, lie in different banks; of floats so do two rows
  // of four chunks each, and two chunks of every second row.
  static __device__ int swizzle(int row) {
    if constexpr (kWide) return ((row / 2 % 4) ^ (row % 2 * 2)) * 2;
    return row % 8;
  }

  __device__ float4 four(int row, int column_chunk) {
    return *reinterpret_cast<const float4*>(chunk(row, column_chunk));
  }

  __device__ void copy_elements(const Element* source, int64_t row_stride, int rows, int columns, int row, int column) {
    alignas(16) Element values[kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      const bool inside = row < rows && column + c < columns;
      values[c] = inside ? source[row * row_stride + column + c] : static_cast<Element>(0.f);
    }
    *reinterpret_cast<uint4*>(chunk(row, column / kChunk)) = *reinterpret_cast<const uint4*>(values);
  }
};

}  // namespace flashonnx::cuda

// Tiles of 16-bit rows in shared memory for ldmatrix: panels of 64 columns, 16-byte chunks swizzled by row so that the
// eight rows of a matrix lie in different banks.
#pragma once

#include "op/cuda/ptx/mma.cuh"

namespace flashonnx::cuda {

constexpr int kChunk = 8;  // elements of 16 bytes

template <typename Element, int kRows, int kColumns>
struct SharedTile {
  static constexpr int kPanels = (kColumns + 63) / 64;
  alignas(128) Element data[kPanels * kRows * 64];

  __device__ Element* chunk(int row, int chunk) {
    return data + (chunk / 8 * kRows + row) * 64 + ((chunk % 8) ^ (row % 8)) * kChunk;
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

  // The A operand at (row, 16 * step): 16 rows by 16 columns.
  __device__ void load_a(uint32_t (&a)[4], int row, int step) {
    const int lane = threadIdx.x % 32;
    load_matrices(a, chunk(row + lane % 16, 2 * step + lane / 16));
  }

  // The B operands of rows [row, row + 16) taken as columns (K^T): b[0], b[1] of the first 8, b[2], b[3] of the rest.
  __device__ void load_b_of_rows(uint32_t (&b)[4], int row, int step) {
    const int lane = threadIdx.x % 32;
    load_matrices(b, chunk(row + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
  }

  // The B operands of rows [row, row + 16) taken as k (V), for columns 16 * step and the next 16.
  __device__ void load_b_of_columns(uint32_t (&b)[4], int row, int step) {
    const int lane = threadIdx.x % 32;
    load_matrices_transposed(b, chunk(row + lane % 16, 2 * step + lane / 16));
  }

 private:
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

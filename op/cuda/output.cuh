// From accumulators to Y and lse in device memory.
#pragma once

#include "op/cuda/ptx/element.cuh"
#include "op/cuda/softmax.cuh"

namespace flashonnx::cuda {

// Where one query row goes; y is null for a row that does not exist.
template <typename Element>
struct OutputRow {
  Element* y = nullptr;
  float* lse = nullptr;
};

template <typename Element>
__device__ inline OutputRow<Element> output_row(const Problem& problem, int batch, int head, int query) {
  OutputRow<Element> row;
  row.y = static_cast<Element*>(problem.y.data) + batch * problem.y.batch_stride + head * problem.y.head_stride +
          query * problem.y.row_stride;
  if (problem.lse != nullptr) {
    row.lse = problem.lse + (batch * problem.q_num_heads + head) * problem.q_sequence_length + query;
  }
  return row;
}

// Thread t of a quad gives the packed pairs of columns 2t, 2t + 1 of four 8-column tiles, and gets tile t whole.
__device__ inline uint4 transpose_quad(uint32_t tile0, uint32_t tile1, uint32_t tile2, uint32_t tile3) {
  const bool odd = threadIdx.x & 1;
  const uint32_t a = __shfl_xor_sync(~0u, odd ? tile0 : tile1, 1);
  const uint32_t b = __shfl_xor_sync(~0u, odd ? tile2 : tile3, 1);
  const uint32_t near0 = odd ? a : tile0, near1 = odd ? tile1 : a;  // of tile 0 or 1
  const uint32_t far0 = odd ? b : tile2, far1 = odd ? tile3 : b;    // of tile 2 or 3
  const bool high = threadIdx.x & 2;
  const uint32_t c = __shfl_xor_sync(~0u, high ? near0 : far0, 2);
  const uint32_t d = __shfl_xor_sync(~0u, high ? near1 : far1, 2);
  return high ? make_uint4(c, d, far0, far1) : make_uint4(near0, near1, c, d);
}

// The two rows of a thread, `columns` (v_head_size) elements each. kVectors: rows start at multiples of 16 bytes and
// columns is a multiple of 8, so that 16 bytes are stored at once.
template <bool kVectors, typename Element, int kSize>
__device__ inline void store_rows(const float (&o)[kSize], const float (&factor)[2],
                                  const OutputRow<Element> (&rows)[2], int columns) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Element* const y = rows[r].y;
    const int end = y != nullptr ? columns : 0;
#pragma unroll
    for (int group = 0; group < kSize / 16; ++group) {
      uint32_t tiles[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 16 * group + 4 * j + 2 * r;
        tiles[j] = pack<Element>(o[i] * factor[r], o[i + 1] * factor[r]);
      }
      if constexpr (kVectors) {
        const uint4 whole = transpose_quad(tiles[0], tiles[1], tiles[2], tiles[3]);
        const int column = 32 * group + 8 * lane;
        if (column < end) *reinterpret_cast<uint4*>(y + column) = whole;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int column = 32 * group + 8 * j + 2 * lane;
          const float2 pair = unpack<Element>(tiles[j]);
          if (column < end) y[column] = static_cast<Element>(pair.x);
          if (column + 1 < end) y[column + 1] = static_cast<Element>(pair.y);
        }
      }
    }
  }
}

// Normalises and stores: the end of every tile that saw all of its keys.
template <bool kVectors, typename Element, int kSize>
__device__ inline void finish_rows(const float (&o)[kSize], const RowState (&states)[2], float unit,
                                   const float* const (&sinks)[2], const OutputRow<Element> (&rows)[2], int columns) {
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const RowResult result = finish_row(states[r].max, quad_sum(states[r].sum), unit, sinks[r]);
    factor[r] = result.factor;
    if (rows[r].y != nullptr && rows[r].lse != nullptr && threadIdx.x % 4 == 0) *rows[r].lse = result.lse;
  }
  store_rows<kVectors>(o, factor, rows, columns);
}

}  // namespace flashonnx::cuda

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

// One row of a thread (`r` of its two), columns before `end`. kVectors: it starts at a multiple of 16 bytes and ends at
// one, so that neighbours can be stored together.
template <bool kVectors, int kSize>
__device__ inline void store_row(const float (&o)[kSize], int r, float factor, float* y, int end) {
#pragma unroll
  for (int j = 0; j < kSize / 4; ++j) {
    const int column = 8 * j + 2 * (threadIdx.x % 4);
    const float2 pair = make_float2(o[4 * j + 2 * r] * factor, o[4 * j + 2 * r + 1] * factor);
    if constexpr (kVectors) {
      if (column < end) *reinterpret_cast<float2*>(y + column) = pair;
    } else {
      if (column < end) y[column] = pair.x;
      if (column + 1 < end) y[column + 1] = pair.y;
    }
  }
}

template <bool kVectors, typename Element, int kSize>
__device__ inline void store_row(const float (&o)[kSize], int r, float factor, Element* y, int end) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int group = 0; group < kSize / 16; ++group) {
    uint32_t tiles[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int i = 16 * group + 4 * j + 2 * r;
      tiles[j] = pack<Element>(o[i] * factor, o[i + 1] * factor);
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

// Normalises and stores the two rows of a thread, `columns` (v_head_size) elements each: the end of every tile that saw
// all of its keys.
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
#pragma unroll
  for (int r = 0; r < 2; ++r) store_row<kVectors>(o, r, factor[r], rows[r].y, rows[r].y != nullptr ? columns : 0);
}

}  // namespace flashonnx::cuda

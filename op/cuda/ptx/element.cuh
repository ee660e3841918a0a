// Element types: what differs between float16 and bfloat16, and which of all a problem has.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "op/core/problem.h"
#include "op/core/status.h"

namespace flashonnx::cuda {

// Two floats rounded to nearest even, the first in the low half.
template <typename Element>
__device__ inline uint32_t pack(float low, float high) {
  uint32_t packed;
  if constexpr (std::is_same_v<Element, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

template <typename Element>
__device__ inline float2 unpack(uint32_t packed) {
  if constexpr (std::is_same_v<Element, __half>) {
    __half2 pair;
    memcpy(&pair, &packed, sizeof(pair));
    return __half22float2(pair);
  } else {  // an instruction each, of which __bfloat1622float2 takes two for the second
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xFFFF0000u));
  }
}

__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(float value) { return value; }
__device__ inline double to_float(double value) { return value; }

// What elements are summed in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// function(T{}) for the element type T of a problem.
template <typename Function>
Status with_element(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat:
      return function(float{});
    case DType::kDouble:
      return function(double{});
    case DType::kFloat16:
      return function(__half{});
    case DType::kBFloat16:
      return function(__nv_bfloat16{});
    default:
      return Status::error("the CUDA kernels take float, double, float16 and bfloat16");
  }
}

}  // namespace flashonnx::cuda

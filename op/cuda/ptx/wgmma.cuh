// wgmma: matrix products of a warpgroup, run asynchronously (PTX ISA 8.0, "wgmma.mma_async").
//
// A is 64x16 and B 16xN of 16-bit elements, the accumulator 64xN of float. Each of the four warps holds 16 rows: of
// each 8 columns 8j..8j+7, thread t holds d[4j], d[4j+1] of row t/4 and d[4j+2], d[4j+3] of row t/4 + 8, at columns
// 8j + 2(t%4) and the next. This is mma.sync's m16n8 layout, so softmax, mask and epilogue serve both.
#pragma once

#include <cstdint>
#include <type_traits>

#include "op/cuda/ptx/barrier.cuh"
#include "op/cuda/ptx/element.cuh"

namespace flashonnx::cuda {

// A matrix in shared memory, its rows of 64 elements (128 bytes) swizzled as TMA's 128-byte mode does; groups of 8
// rows lie 1024 bytes apart. `panel_bytes` separates 64-column panels where rows run along N (B = V), else unused.
__device__ inline uint64_t matrix_descriptor(const void* shared, int panel_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kGroupStride | (static_cast<uint64_t>(panel_bytes >> 4) << 16) |
         ((shared_address(shared) & 0x3FFFF) >> 4);
}

__device__ inline uint64_t advance(uint64_t descriptor, int bytes) { return descriptor + (bytes >> 4); }

// Before the first product that reads registers written since the last one.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Returns once all but the newest kPending groups have finished.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of an accumulator across a wait that it does not know to concern them.
template <int kSize>
__device__ inline void pin(float (&registers)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

#define FLASHONNX_REG8(a, b, c, d, e, f, g, h) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define FLASHONNX_REGS_32                                                \
  FLASHONNX_REG8(0, 1, 2, 3, 4, 5, 6, 7)                                 \
  ", " FLASHONNX_REG8(8, 9, 10, 11, 12, 13, 14, 15) ", " FLASHONNX_REG8( \
      16, 17, 18, 19, 20, 21, 22, 23) ", " FLASHONNX_REG8(24, 25, 26, 27, 28, 29, 30, 31)
#define FLASHONNX_REGS_40 FLASHONNX_REGS_32 ", " FLASHONNX_REG8(32, 33, 34, 35, 36, 37, 38, 39)
#define FLASHONNX_REGS_48 FLASHONNX_REGS_40 ", " FLASHONNX_REG8(40, 41, 42, 43, 44, 45, 46, 47)
#define FLASHONNX_REGS_56 FLASHONNX_REGS_48 ", " FLASHONNX_REG8(48, 49, 50, 51, 52, 53, 54, 55)
#define FLASHONNX_REGS_64 FLASHONNX_REGS_56 ", " FLASHONNX_REG8(56, 57, 58, 59, 60, 61, 62, 63)
#define FLASHONNX_REGS_72 FLASHONNX_REGS_64 ", " FLASHONNX_REG8(64, 65, 66, 67, 68, 69, 70, 71)
#define FLASHONNX_REGS_80 FLASHONNX_REGS_72 ", " FLASHONNX_REG8(72, 73, 74, 75, 76, 77, 78, 79)
#define FLASHONNX_REGS_88 FLASHONNX_REGS_80 ", " FLASHONNX_REG8(80, 81, 82, 83, 84, 85, 86, 87)
#define FLASHONNX_REGS_96 FLASHONNX_REGS_88 ", " FLASHONNX_REG8(88, 89, 90, 91, 92, 93, 94, 95)
#define FLASHONNX_REGS_128                                                                                          \
  FLASHONNX_REGS_96 ", " FLASHONNX_REG8(96, 97, 98, 99, 100, 101, 102, 103) ", " FLASHONNX_REG8(                    \
      104, 105, 106, 107, 108, 109, 110, 111) ", " FLASHONNX_REG8(112, 113, 114, 115, 116, 117, 118,                \
                                                                  119) ", " FLASHONNX_REG8(120, 121, 122, 123, 124, \
                                                                                           125, 126, 127)

#define FLASHONNX_ACC8(i)                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FLASHONNX_ACC_32 FLASHONNX_ACC8(0), FLASHONNX_ACC8(8), FLASHONNX_ACC8(16), FLASHONNX_ACC8(24)
#define FLASHONNX_ACC_40 FLASHONNX_ACC_32, FLASHONNX_ACC8(32)
#define FLASHONNX_ACC_48 FLASHONNX_ACC_40, FLASHONNX_ACC8(40)
#define FLASHONNX_ACC_56 FLASHONNX_ACC_48, FLASHONNX_ACC8(48)
#define FLASHONNX_ACC_64 FLASHONNX_ACC_56, FLASHONNX_ACC8(56)
#define FLASHONNX_ACC_72 FLASHONNX_ACC_64, FLASHONNX_ACC8(64)
#define FLASHONNX_ACC_80 FLASHONNX_ACC_72, FLASHONNX_ACC8(72)
#define FLASHONNX_ACC_88 FLASHONNX_ACC_80, FLASHONNX_ACC8(80)
#define FLASHONNX_ACC_96 FLASHONNX_ACC_88, FLASHONNX_ACC8(88)
#define FLASHONNX_ACC_128 \
  FLASHONNX_ACC_96, FLASHONNX_ACC8(96), FLASHONNX_ACC8(104), FLASHONNX_ACC8(112), FLASHONNX_ACC8(120)

// d = a b (+ d): A and B in shared memory, both with contiguous rows along k (Q and K).
#define FLASHONNX_WGMMA_SHARED(N, SIZE, TYPE, A, B, ACCUMULATE)                                            \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N \
               "k16.f32." TYPE "." TYPE " {" FLASHONNX_REGS_##SIZE "}, " A ", " B ", p, 1, 1, 0, 0;\n}\n"  \
               : FLASHONNX_ACC_##SIZE                                                                      \
               : "l"(a), "l"(b), "r"(accumulate))

#define FLASHONNX_DEFINE_WGMMA_SHARED(N, SIZE, A, B, ACCUMULATE)                                  \
  template <typename Element>                                                                     \
  __device__ inline void wgmma_shared(float (&d)[SIZE], uint64_t a, uint64_t b, int accumulate) { \
    if constexpr (std::is_same_v<Element, __half>)                                                \
      FLASHONNX_WGMMA_SHARED(N, SIZE, "f16", A, B, ACCUMULATE);                                   \
    else                                                                                          \
      FLASHONNX_WGMMA_SHARED(N, SIZE, "bf16", A, B, ACCUMULATE);                                  \
  }

FLASHONNX_DEFINE_WGMMA_SHARED(64, 32, "%32", "%33", "%34")
FLASHONNX_DEFINE_WGMMA_SHARED(80, 40, "%40", "%41", "%42")
FLASHONNX_DEFINE_WGMMA_SHARED(112, 56, "%56", "%57", "%58")
FLASHONNX_DEFINE_WGMMA_SHARED(128, 64, "%64", "%65", "%66")

// d = a b (+ d): A in registers, B in shared memory with contiguous rows along n (P and V).
#define FLASHONNX_WGMMA_REGISTERS(N, SIZE, TYPE, A, B, ACCUMULATE)                                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N \
               "k16.f32." TYPE "." TYPE " {" FLASHONNX_REGS_##SIZE "}, {" A "}, " B ", p, 1, 1, 1;\n}\n"   \
               : FLASHONNX_ACC_##SIZE                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

#define FLASHONNX_DEFINE_WGMMA_REGISTERS(N, SIZE, A, B, ACCUMULATE)                                         \
  template <typename Element>                                                                               \
  __device__ inline void wgmma_registers(float (&d)[SIZE], const uint32_t* a, uint64_t b, int accumulate) { \
    if constexpr (std::is_same_v<Element, __half>)                                                          \
      FLASHONNX_WGMMA_REGISTERS(N, SIZE, "f16", A, B, ACCUMULATE);                                          \
    else                                                                                                    \
      FLASHONNX_WGMMA_REGISTERS(N, SIZE, "bf16", A, B, ACCUMULATE);                                         \
  }

FLASHONNX_DEFINE_WGMMA_REGISTERS(64, 32, "%32, %33, %34, %35", "%36", "%37")
FLASHONNX_DEFINE_WGMMA_REGISTERS(96, 48, "%48, %49, %50, %51", "%52", "%53")
FLASHONNX_DEFINE_WGMMA_REGISTERS(128, 64, "%64, %65, %66, %67", "%68", "%69")
FLASHONNX_DEFINE_WGMMA_REGISTERS(192, 96, "%96, %97, %98, %99", "%100", "%101")
FLASHONNX_DEFINE_WGMMA_REGISTERS(256, 128, "%128, %129, %130, %131", "%132", "%133")

}  // namespace flashonnx::cuda

// The tile registers of Intel AMX. Interface: tile_unit.h.
//
// In assembly, since the compilers' intrinsics take no register numbers from templates.
#pragma once

#include <cstdint>

namespace flashonnx::cpu::FLASHONNX_ISA {

// Holds the thread's tile configuration while it lives: registers left configured would slow every switch of threads.
class TileUnit {
 public:
  TileUnit() {
    static_assert(kLanes == 16, "a row of a tile has 64 bytes");
    static constexpr Configuration kConfiguration;
    __asm__ volatile("ldtilecfg %0" : : "m"(kConfiguration));
  }
  ~TileUnit() { __asm__ volatile("tilerelease" : :); }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;

  template <int kTile>
  void clear() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }

  // Rows lie `stride` bytes apart.
  template <int kTile>
  void load(const void* rows, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
  }

  template <int kTile>
  void store(float* rows, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
  }

  // sums += A B
  template <int kSums, int kA, int kB>
  void add_product() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
  }

 private:
  // The operand of LDTILECFG: every tile has 16 rows of 64 bytes.
  struct alignas(64) Configuration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static_assert(sizeof(Configuration) == 64, "LDTILECFG reads 64 bytes");
};

}  // namespace flashonnx::cpu::FLASHONNX_ISA

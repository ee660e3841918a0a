#include "op/cpu/isa.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define FLASHONNX_X86 1

#include <initializer_list>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace flashonnx::cpu {
namespace {

#ifdef FLASHONNX_X86

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

constexpr bool has(unsigned word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if ((word >> bit & 1u) == 0) return false;
  }
  return true;
}

// The register sets that the operating system saves (XCR0): Intel SDM volume 1, section 13.3.
unsigned saved_registers() {
  constexpr int kOsxsave = 27;
  if (!has(cpuid(1, 0).ecx, {kOsxsave})) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Bits as in Intel SDM volume 2A, CPUID.
bool supports_avx2() {
  constexpr int kFma = 12, kAvx = 28, kF16c = 29;  // leaf 1, ecx
  constexpr int kAvx2 = 5;                         // leaf 7, ebx
  return has(saved_registers(), {1, 2}) && has(cpuid(1, 0).ecx, {kFma, kAvx, kF16c}) && has(cpuid(7, 0).ebx, {kAvx2});
}

bool supports_avx512() {
  constexpr int kF = 16, kDq = 17, kBw = 30, kVl = 31;  // leaf 7, ebx
  return supports_avx2() && has(saved_registers(), {5, 6, 7}) && has(cpuid(7, 0).ebx, {kF, kDq, kBw, kVl});
}

bool supports_avx512_bf16() {
  constexpr int kBf16 = 5;  // leaf 7, subleaf 1, eax
  return supports_avx512() && has(cpuid(7, 1).eax, {kBf16});
}

// Linux keeps the tiles of a process only once it has asked: Documentation/arch/x86/xstate.rst.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // the component's bit in XCR0
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool supports_amx() {
  constexpr int kAmxBf16 = 22, kAmxTile = 24;  // leaf 7, edx
  return supports_avx512_bf16() && has(saved_registers(), {17, 18}) && has(cpuid(7, 0).edx, {kAmxBf16, kAmxTile}) &&
         may_use_tiles();
}

#else

bool supports_avx2() { return false; }
bool supports_avx512() { return false; }
bool supports_avx512_bf16() { return false; }
bool supports_amx() { return false; }

#endif

}  // namespace

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAmxEmulated:
      return "amx_emulated";
    case Isa::kGeneric:
      return "generic";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

Isa base(Isa isa) {
  switch (isa) {
    case Isa::kAmxEmulated:
      return Isa::kGeneric;
    case Isa::kAvx512Bf16:
    case Isa::kAmx:
      return Isa::kAvx512;
    default:
      return isa;
  }
}

bool is_for_bfloat16(Isa isa) { return base(isa) != isa; }

bool is_compiled(Isa isa) {
  switch (isa) {
    case Isa::kAmxEmulated:
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
#ifdef FLASHONNX_HAS_AVX2
      return true;
#else
      return false;
#endif
    case Isa::kAvx512:
#ifdef FLASHONNX_HAS_AVX512
      return true;
#else
      return false;
#endif
    case Isa::kAvx512Bf16:
#ifdef FLASHONNX_HAS_AVX512_BF16
      return true;
#else
      return false;
#endif
    case Isa::kAmx:
#ifdef FLASHONNX_HAS_AMX
      return true;
#else
      return false;
#endif
  }
  return false;
}

bool is_supported(Isa isa) {
  static const bool avx2 = supports_avx2();
  static const bool avx512 = supports_avx512();
  static const bool avx512_bf16 = supports_avx512_bf16();
  static const bool amx = supports_amx();
  switch (isa) {
    case Isa::kAmxEmulated:
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx512Bf16:
      return avx512_bf16;
    case Isa::kAmx:
      return amx;
  }
  return false;
}

Isa best_isa() {
  Isa best = Isa::kGeneric;
  for (Isa isa : kIsas) {
    if (is_compiled(isa) && is_supported(isa)) best = isa;
  }
  return best;
}

}  // namespace flashonnx::cpu

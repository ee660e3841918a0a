// Instruction sets that the kernels are compiled for, and which of them this CPU can run.
#pragma once

namespace flashonnx::cpu {

// In order of preference, the last one best.
enum class Isa { kGeneric, kAvx2, kAvx512 };
inline constexpr Isa kIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512};

// "generic", "avx2", "avx512".
const char* name(Isa isa);

// Whether this library has kernels for it.
bool is_compiled(Isa isa);

// Whether the CPU has its instructions and the operating system saves its registers.
bool is_supported(Isa isa);

// The best one that is both.
Isa best_isa();

}  // namespace flashonnx::cpu

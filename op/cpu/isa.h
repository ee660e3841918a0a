// Instruction sets that the kernels are compiled for, and which of them this CPU can run.
#pragma once

namespace flashonnx::cpu {

// In order of preference, the last one best. kAmxEmulated, Intel AMX in plain C++, is slow: it is for tests, and to see
// on any CPU what AMX would compute. kAvx512Bf16 comes before what it extends: the one CPU on which it has been timed,
// a Xeon with AMX, computes bfloat16 faster by way of float.
enum class Isa { kAmxEmulated, kGeneric, kAvx2, kAvx512Bf16, kAvx512, kAmx };
inline constexpr Isa kIsas[] = {Isa::kAmxEmulated, Isa::kGeneric, Isa::kAvx2,
                                Isa::kAvx512Bf16,  Isa::kAvx512,  Isa::kAmx};

// "amx_emulated", "generic", "avx2", "avx512", "avx512_bf16", "amx".
const char* name(Isa isa);

// Whether it only has the tiled kernel of bfloat16: all else runs on its base.
bool is_for_bfloat16(Isa isa);

// The set that it extends; itself if it has all kernels.
Isa base(Isa isa);

// Whether this library has kernels for it.
bool is_compiled(Isa isa);

// Whether the CPU has its instructions and the operating system saves its registers. The first call asks Linux for
// AMX's registers, which a process has to.
bool is_supported(Isa isa);

// The best one that is both.
Isa best_isa();

}  // namespace flashonnx::cpu

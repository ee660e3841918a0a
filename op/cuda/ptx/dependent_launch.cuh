// Programmatic dependent launch: a kernel may start before the one ahead of it in the stream has ended (PTX ISA 7.8,
// "griddepcontrol"; compute capability 9.0 and up, elsewhere kernels wait for each other as ever).
#pragma once

namespace flashonnx::cuda {

__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns once the kernel ahead has ended and its writes can be read.
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace flashonnx::cuda

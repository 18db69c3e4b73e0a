#pragma once

// EVENFLOW_INLINE marks every function that several compilations of one source share.
//
// GCC and Clang compile a functor once for each instruction set, under the same name. If they emitted it out
// of line, the linker would keep one copy for all of them, and a processor without AVX-512 could run AVX-512
// code. `inline` alone permits such a copy, so these compilers get always_inline.
//
// nvcc compiles the same functor for the host and for the GPU (__host__ __device__).
#if defined(__CUDACC__)
#define EVENFLOW_INLINE __host__ __device__ __forceinline__
#else
#define EVENFLOW_INLINE inline __attribute__((always_inline))
#endif

#pragma once

// Functors are compiled by g++ (once for each instruction set) and by nvcc. always_inline is load-bearing:
// an out-of-line copy would be merged by the linker across instruction sets.
#if defined(__CUDACC__)
#define EVENFLOW_HD __host__ __device__ __forceinline__
#else
#define EVENFLOW_HD inline __attribute__((always_inline))
#endif

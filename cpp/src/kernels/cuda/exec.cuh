#pragma once

#include <cstdint>

#include "kernels/cuda/check.cuh"

// The device's loops and reductions over the functors of ops/. The interface is CpuExec's. Reductions have a
// fixed order: a block adds a fixed set of rows by a tree, and blocks are added in order.

namespace evenflow::cuda {

constexpr int kThreads = 256;

template <class F>
__global__ void for_each_kernel(int64_t rows, int64_t cols, F f) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * cols;
       i += stride) {
    f(i / cols, i % cols);
  }
}

/// Adds the block's values in shared memory (kThreads); the result is in every thread's return value.
__device__ inline double block_sum(double value, double* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  const double total = shared[0];
  __syncthreads();
  return total;
}

/// One block; out[0] is overwritten.
template <class F>
__global__ void sum_kernel(int64_t rows, int64_t cols, F f, double* out) {
  __shared__ double shared[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows * cols; i += blockDim.x) sum += f(i / cols, i % cols);
  const double total = block_sum(sum, shared);
  if (threadIdx.x == 0) out[0] = total;
}

/// One block a group of elements that are loaded, computed and stored; out[group][F::sums] +=.
template <class T, class F>
__global__ void map_groups_kernel(int64_t rows, int64_t cols, F f, double* out) {
  __shared__ double shared[kThreads];
  double sum[F::sums] = {};
  const int64_t first = blockIdx.x * rows;
  for (int64_t i = threadIdx.x; i < rows * cols; i += blockDim.x) {
    T in[F::inputs], result[F::outputs], part[F::sums];
    f.load(first + i / cols, i % cols, in, 1);
    f.compute(in, result, part);
    f.store(first + i / cols, i % cols, result, 1);
    for (int k = 0; k < F::sums; ++k) sum[k] += part[k];
  }
  for (int k = 0; k < F::sums; ++k) {
    const double total = block_sum(sum[k], shared);
    if (threadIdx.x == 0) out[blockIdx.x * F::sums + k] += total;
  }
}

/// One block a column; out (F::sums, cols) is overwritten.
template <class T, class F>
__global__ void sum_columns_kernel(int64_t rows, int64_t cols, F f, double* out) {
  __shared__ double shared[kThreads];
  double sum[F::sums] = {};
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
    T part[F::sums] = {};
    f(r, blockIdx.x, part, 1);
    for (int k = 0; k < F::sums; ++k) sum[k] += part[k];
  }
  for (int k = 0; k < F::sums; ++k) {
    const double total = block_sum(sum[k], shared);
    if (threadIdx.x == 0) out[k * cols + blockIdx.x] = total;
  }
}

struct CudaExec {
  template <class F>
  static void for_each(cudaStream_t stream, int64_t rows, int64_t cols, const F& f) {
    if (rows * cols == 0) return;
    const int64_t blocks = (rows * cols + kThreads - 1) / kThreads;
    for_each_kernel<<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), kThreads, 0, stream>>>(rows,
                                                                                                     cols, f);
    check_launch("for_each");
  }

  template <class F>
  static void sum(cudaStream_t stream, int64_t rows, int64_t cols, const F& f, double* out) {
    sum_kernel<<<1, kThreads, 0, stream>>>(rows, cols, f, out);
    check_launch("sum");
  }

  template <class T, class F>
  static void map_groups(cudaStream_t stream, int64_t groups, int64_t rows, int64_t cols, const F& f,
                         double* out) {
    if (groups == 0) return;
    map_groups_kernel<T><<<static_cast<unsigned>(groups), kThreads, 0, stream>>>(rows, cols, f, out);
    check_launch("map_groups");
  }

  template <class T, class F>
  static void sum_columns(cudaStream_t stream, int64_t rows, int64_t cols, const F& f, double* out) {
    if (cols == 0) return;
    sum_columns_kernel<T><<<static_cast<unsigned>(cols), kThreads, 0, stream>>>(rows, cols, f, out);
    check_launch("sum_columns");
  }
};

}  // namespace evenflow::cuda

#pragma once

#include "evenflow/context.hpp"
#include "kernels/ops/math.hpp"

// Loops over rows and columns with OpenMP. Work is cut into chunks whose size does not depend on the thread
// count, and partial sums are added in chunk order, so results do not depend on it either.

namespace evenflow {

/// Isa is a template argument of everything here: the same body compiled for another instruction set must
/// not be merged with this one by the linker.
template <class Isa>
struct CpuExec {
  static constexpr int64_t kParallelWork = 1 << 16;  ///< elements below which waking a thread costs more

  static int threads_for(Context& ctx, int64_t work) { return work < kParallelWork ? 1 : ctx.threads(); }

  /// f(row, column).
  template <class F>
  static void for_each(Context& ctx, int64_t rows, int64_t cols, const F& f) {
    const int threads = threads_for(ctx, rows * cols);
    if (rows < threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
      for (int64_t block = 0; block < (cols + 4095) / 4096; ++block) {
        const int64_t end = ops::min_of(cols, (block + 1) * 4096);
        for (int64_t r = 0; r < rows; ++r) {
#pragma GCC ivdep
          for (int64_t c = block * 4096; c < end; ++c) f(r, c);
        }
      }
      return;
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC ivdep
      for (int64_t c = 0; c < cols; ++c) f(r, c);
    }
  }

  /// f(row, column, sum[F::sums]); out[group][F::sums] += the sums over that group's rows.
  template <class F>
  static void sum_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols, const F& f, double* out) {
    const int64_t chunk = ops::max_of<int64_t>(1, 8192 / ops::max_of<int64_t>(cols, 1));
    const int64_t chunks = (rows + chunk - 1) / chunk;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(groups * chunks * F::sums);
    const int threads = threads_for(ctx, groups * rows * cols);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t job = 0; job < groups * chunks; ++job) {
      const int64_t group = job / chunks, begin = job % chunks * chunk;
      const int64_t end = ops::min_of(rows, begin + chunk);
      double sum[F::sums] = {};
      for (int64_t r = group * rows + begin; r < group * rows + end; ++r) {
        for (int64_t c = 0; c < cols; ++c) f(r, c, sum);
      }
      for (int k = 0; k < F::sums; ++k) partial[job * F::sums + k] = sum[k];
    }
    for (int64_t job = 0; job < groups * chunks; ++job) {
      for (int k = 0; k < F::sums; ++k) out[job / chunks * F::sums + k] += partial[job * F::sums + k];
    }
  }

  /// f(row, column, sum, next) adds to sum[0] and sum[next]; out (F::sums, cols) = the sums over rows. Short
  /// runs are added in T, which vectorises, then in double.
  template <class T, class F>
  static void sum_columns(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    constexpr int64_t kRun = 32;
    const int64_t width = F::sums * cols;
    const int64_t chunk = ops::max_of<int64_t>(kRun, 32768 / ops::max_of<int64_t>(cols, 1) / kRun * kRun);
    const int64_t chunks = (rows + chunk - 1) / chunk;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(chunks * width);
    T* runs = scope.take<T>(chunks * width);
    const int threads = threads_for(ctx, rows * cols);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t job = 0; job < chunks; ++job) {
      double* total = partial + job * width;
      T* run = runs + job * width;
      for (int64_t k = 0; k < width; ++k) total[k] = 0;
      const int64_t end = ops::min_of(rows, (job + 1) * chunk);
      for (int64_t begin = job * chunk; begin < end; begin += kRun) {
        for (int64_t k = 0; k < width; ++k) run[k] = T(0);
        for (int64_t r = begin; r < ops::min_of(end, begin + kRun); ++r) {
#pragma GCC ivdep
          for (int64_t c = 0; c < cols; ++c) f(r, c, run + c, cols);
        }
        for (int64_t k = 0; k < width; ++k) total[k] += run[k];
      }
    }
    for (int64_t k = 0; k < width; ++k) out[k] = 0;
    for (int64_t job = 0; job < chunks; ++job) {
      for (int64_t k = 0; k < width; ++k) out[k] += partial[job * width + k];
    }
  }
};

}  // namespace evenflow

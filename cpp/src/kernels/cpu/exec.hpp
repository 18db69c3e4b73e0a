#pragma once

#include "evenflow/context.hpp"
#include "kernels/cpu/team.hpp"
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
    run_team<Isa>(threads, [&](const Team& team) {
      const bool by_rows = rows >= team.size;
      const int64_t r_end = by_rows ? team.end(rows) : rows, c_end = by_rows ? cols : team.end(cols);
      for (int64_t r = by_rows ? team.begin(rows) : 0; r < r_end; ++r) {
#pragma GCC ivdep
        for (int64_t c = by_rows ? 0 : team.begin(cols); c < c_end; ++c) f(r, c);
      }
    });
  }

  /// Elements of `groups` of `rows` rows: loaded, computed and stored many at a time; out[group][F::sums] +=
  /// the sums over that group's elements.
  template <class T, class F>
  static void map_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols, const F& f, double* out) {
    constexpr int64_t kRun = 128;  // elements
    constexpr int64_t kWorth = 8;  // each costs as much as that many plain ones
    const int64_t chunk = ops::max_of<int64_t>(1, 4096 / ops::max_of<int64_t>(cols, 1));
    const int64_t chunks = (rows + chunk - 1) / chunk;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(groups * chunks * F::sums);
    run_team<Isa>(threads_for(ctx, groups * rows * cols * kWorth), [&](const Team& team) {
      alignas(64) T in[F::inputs * kRun], result[F::outputs * kRun], sums[F::sums * kRun];
      for (int64_t job = team.begin(groups * chunks); job < team.end(groups * chunks); ++job) {
        const int64_t group = job / chunks, first = group * rows + job % chunks * chunk;
        const int64_t count = (ops::min_of((group + 1) * rows, first + chunk) - first) * cols;
        double total[F::sums][8] = {};
        int64_t row = first, col = 0;
        for (int64_t begin = 0; begin < count; begin += kRun) {
          const int64_t run = ops::min_of(kRun, count - begin);
          int64_t r = row, c = col;
          for (int64_t e = 0; e < run; ++e) {
            f.load(r, c, in + e, kRun);
            if (++c == cols) c = 0, ++r;
          }
          for (int64_t e = run; e < (run + 15) / 16 * 16; ++e) {
            for (int i = 0; i < F::inputs; ++i) in[i * kRun + e] = T(0);
          }
#pragma GCC ivdep
          for (int64_t e = 0; e < (run + 15) / 16 * 16; ++e) {
            T a[F::inputs], b[F::outputs], s[F::sums];
#pragma GCC unroll 8
            for (int i = 0; i < F::inputs; ++i) a[i] = in[i * kRun + e];
            f.compute(a, b, s);
#pragma GCC unroll 8
            for (int i = 0; i < F::outputs; ++i) result[i * kRun + e] = b[i];
#pragma GCC unroll 8
            for (int i = 0; i < F::sums; ++i) sums[i * kRun + e] = s[i];
          }
          for (int64_t e = 0; e < run; ++e) {
            f.store(row, col, result + e, kRun);
            if (++col == cols) col = 0, ++row;
          }
          for (int i = 0; i < F::sums; ++i) {
            for (int64_t e = run; e < (run + 7) / 8 * 8; ++e) sums[i * kRun + e] = T(0);
            for (int64_t e = 0; e < run; e += 8) {
#pragma GCC unroll 8
              for (int l = 0; l < 8; ++l) total[i][l] += sums[i * kRun + e + l];
            }
          }
        }
        for (int i = 0; i < F::sums; ++i) {
          const double* t = total[i];
          partial[job * F::sums + i] = ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
        }
      }
    });
    for (int64_t job = 0; job < groups * chunks; ++job) {
      for (int i = 0; i < F::sums; ++i) out[job / chunks * F::sums + i] += partial[job * F::sums + i];
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
    run_team<Isa>(threads, [&](const Team& team) {
      for (int64_t job = team.begin(groups * chunks); job < team.end(groups * chunks); ++job) {
        const int64_t group = job / chunks, begin = job % chunks * chunk;
        const int64_t end = ops::min_of(rows, begin + chunk);
        double sum[F::sums] = {};
        for (int64_t r = group * rows + begin; r < group * rows + end; ++r) {
          for (int64_t c = 0; c < cols; ++c) f(r, c, sum);
        }
        for (int k = 0; k < F::sums; ++k) partial[job * F::sums + k] = sum[k];
      }
    });
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
    run_team<Isa>(threads, [&](const Team& team) {
      for (int64_t job = team.begin(chunks); job < team.end(chunks); ++job) {
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
    });
    for (int64_t k = 0; k < width; ++k) out[k] = 0;
    for (int64_t job = 0; job < chunks; ++job) {
      for (int64_t k = 0; k < width; ++k) out[k] += partial[job * width + k];
    }
  }
};

}  // namespace evenflow

#pragma once

#include <limits>

#include "kernels/mixing/kernels.hpp"
#include "kernels/mixing/matrix_share.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/place.hpp"

// W = P L U of a 1x1 convolution, its inverse and its gradients.

namespace evenflow::ops {

/// L has ones on its diagonal, U sign * exp(logs).
template <class T>
struct LuEntries {
  LuParameters<T> of;
  int64_t n;

  EVENFLOW_INLINE double lower(int64_t i, int64_t j) const {
    return j < i ? static_cast<double>(of.lower[i * n + j]) : j == i ? 1.0 : 0.0;
  }
  EVENFLOW_INLINE double diagonal(int64_t i) const {
    return static_cast<double>(of.sign[i]) * exp(static_cast<double>(of.logs[i]));
  }
  /// The row of L U that is row i of W; -1: the permutation names none.
  EVENFLOW_INLINE int64_t row(int64_t i) const {
    const T stored = of.permutation[i];
    if (!(stored >= T(0) && stored < static_cast<T>(n))) return -1;
    const int64_t named = static_cast<int64_t>(stored);
    return static_cast<T>(named) == stored ? named : -1;
  }
  /// Whether the permutation names row k of L U once.
  EVENFLOW_INLINE bool names(int64_t k) const {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += row(i) == k;
    return count == 1;
  }
};

/// w = P L U, log_det (1) = log |det w|, inverse = U^-1 L^-1 P^-1 unless null. room: n * n + n. Where the
/// stored order is no permutation, numbers of both matrices are NaN.
template <class T, int rows, int cols>
struct LuMatrix {
  static constexpr int threads = rows * cols;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  LuEntries<T> f;
  T* w;
  T* inverse;
  double* log_det;
  double* room;

  /// Phase 0 computes the diagonal, 1 W. With an inverse, 2 writes P^-1; then n phases eliminate L's columns
  /// and n U's; the last divides by the diagonal.
  EVENFLOW_INLINE int64_t phases(int64_t) const { return inverse ? 2 * f.n + 4 : 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared&) const {
    const Share share(at.thread);
    const int64_t n = f.n;
    if (phase == 0) {
      for (int64_t i = at.thread; i < n; i += threads) room[i] = f.names(i) ? f.diagonal(i) : none();
      if (at.thread == 0) sum_logs();
    } else if (phase == 1) {
      for (int64_t i = share.first_row(0); i < n; i += rows) multiply(share, i);
    } else if (phase == 2) {
      for (int64_t i = share.first_row(0); i < n; i += rows) permute(share, i);
    } else if (phase < n + 3) {
      const int64_t k = phase - 3;
      for (int64_t i = share.first_row(k + 1); i < n; i += rows) eliminate(share, i, k, f.lower(i, k));
    } else if (phase < 2 * n + 3) {
      const int64_t k = 2 * n + 2 - phase;
      for (int64_t i = share.first_row(0); i < k; i += rows) {
        eliminate(share, i, k, static_cast<double>(f.of.upper[i * n + k]) / room[k]);
      }
    } else {
      for (int64_t i = share.first_row(0); i < n; i += rows) {
        const double* x = row_of(i);
        for (int64_t j = share.first_col(0); j < n; j += cols) {
          inverse[i * n + j] = static_cast<T>(x[j] / room[i]);
        }
      }
    }
  }

 private:
  EVENFLOW_INLINE static double none() { return std::numeric_limits<double>::quiet_NaN(); }
  EVENFLOW_INLINE double* row_of(int64_t i) const { return room + f.n + i * f.n; }

  EVENFLOW_INLINE void sum_logs() const {
    double total = 0;
    for (int64_t i = 0; i < f.n; ++i) total += static_cast<double>(f.of.logs[i]);
    log_det[0] = total;
  }

  EVENFLOW_INLINE void multiply(const Share& share, int64_t i) const {
    const int64_t n = f.n, row = f.row(i);
    double* sums = row_of(i);
    for (int64_t j = share.first_col(0); j < n; j += cols) sums[j] = row < 0 ? none() : 0;
    for (int64_t k = 0; k <= row; ++k) {
      const double left = f.lower(row, k);
      const T* right = f.of.upper + k * n;
      if (share.has_col(k)) sums[k] += left * room[k];
      for (int64_t j = share.first_col(k + 1); j < n; j += cols)
        sums[j] += left * static_cast<double>(right[j]);
    }
    for (int64_t j = share.first_col(0); j < n; j += cols) w[i * n + j] = static_cast<T>(sums[j]);
  }

  EVENFLOW_INLINE void permute(const Share& share, int64_t i) const {
    double* x = row_of(i);
    for (int64_t j = share.first_col(0); j < f.n; j += cols) x[j] = f.row(j) == i ? 1 : 0;
  }

  /// Row i of what becomes the inverse -= factor * row k.
  EVENFLOW_INLINE void eliminate(const Share& share, int64_t i, int64_t k, double factor) const {
    double* x = row_of(i);
    const double* known = row_of(k);
    for (int64_t j = share.first_col(0); j < f.n; j += cols) x[j] -= factor * known[j];
  }
};

/// Adds to the gradients of L, U and logs, from dw (n, n); to that of logs also pixels * dlogdet[0]. room:
/// 3 n * n + n.
template <class T, int rows, int cols>
struct LuGradients {
  static constexpr int threads = rows * cols;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  LuEntries<T> f;
  const T* dw;
  const double* dlogdet;
  double pixels;
  LuParameterGradients<T> out;
  double* room;

  /// The diagonal, and U's upper part transposed; the gradients.
  EVENFLOW_INLINE int64_t phases(int64_t) const { return 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared&) const {
    const Share share(at.thread);
    const int64_t n = f.n;
    for (int64_t i = at.thread; phase == 0 && i < n; i += threads) room[i] = f.diagonal(i);
    for (int64_t i = share.first_row(0); i < n; i += rows) {
      if (phase == 0) {
        for (int64_t j = share.first_col(0); j < i; j += cols) {
          transposed()[i * n + j] = static_cast<double>(f.of.upper[j * n + i]);
        }
      } else {
        add_lower(share, i);
        add_upper(share, i);
      }
    }
  }

 private:
  EVENFLOW_INLINE double* transposed() const { return room + f.n; }

  /// Row i of dW: a row of P^T dW, which times U^T is dL.
  EVENFLOW_INLINE void add_lower(const Share& share, int64_t i) const {
    const int64_t n = f.n, row = f.row(i);
    double* sums = transposed() + n * n + i * n;
    for (int64_t j = share.first_col(0); j < row; j += cols) sums[j] = 0;
    for (int64_t k = 0; k < n; ++k) {
      const double g = static_cast<double>(dw[i * n + k]);
      const double* right = transposed() + k * n;
      for (int64_t j = share.first_col(0); j < min_of(k, row); j += cols) sums[j] += g * right[j];
      if (k < row && share.has_col(k)) sums[k] += g * room[k];
    }
    for (int64_t j = share.first_col(0); j < row; j += cols) {
      out.lower[row * n + j] += static_cast<T>(sums[j]);
    }
  }

  /// Row i of L^T P^T dW, from the diagonal on dU.
  EVENFLOW_INLINE void add_upper(const Share& share, int64_t i) const {
    const int64_t n = f.n;
    double* sums = transposed() + 2 * n * n + i * n;
    for (int64_t j = share.first_col(i); j < n; j += cols) sums[j] = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t row = f.row(k);
      if (row < i) continue;
      const double left = f.lower(row, i);
      const T* right = dw + k * n;
      for (int64_t j = share.first_col(i); j < n; j += cols) sums[j] += left * static_cast<double>(right[j]);
    }
    for (int64_t j = share.first_col(i + 1); j < n; j += cols)
      out.upper[i * n + j] += static_cast<T>(sums[j]);
    if (share.has_col(i)) out.logs[i] += static_cast<T>(sums[i] * room[i] + pixels * dlogdet[0]);
  }
};

}  // namespace evenflow::ops

#pragma once

#include <limits>

#include "kernels/kernel_set.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/place.hpp"

// Matrices of 1x1 convolutions in float64, each by one block of rows * cols threads: a thread has every
// rows-th row and every cols-th column. An element's sum has the same order for any number of threads; on the
// CPU one thread has everything.

namespace evenflow::ops {

/// L has ones on its diagonal, U sign * exp(logs).
template <class T>
struct LuFactors {
  LuParameters<T> of;
  int64_t n;

  EVENFLOW_HD double lower(int64_t i, int64_t j) const {
    return j < i ? static_cast<double>(of.lower[i * n + j]) : j == i ? 1.0 : 0.0;
  }
  EVENFLOW_HD double diagonal(int64_t i) const {
    return static_cast<double>(of.sign[i]) * exp(static_cast<double>(of.logs[i]));
  }
  /// The row of L U that is row i of W; -1: the permutation names none.
  EVENFLOW_HD int64_t row(int64_t i) const {
    const T stored = of.permutation[i];
    if (!(stored >= T(0) && stored < static_cast<T>(n))) return -1;
    const int64_t named = static_cast<int64_t>(stored);
    return static_cast<T>(named) == stored ? named : -1;
  }
  /// Whether the permutation names row k of L U once.
  EVENFLOW_HD bool names(int64_t k) const {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += row(i) == k;
    return count == 1;
  }
};

/// A thread's share of a matrix: rows first_row(begin), first_row(begin) + rows, ... from `begin` on, and
/// columns likewise.
template <int rows, int cols>
struct MatrixShare {
  int64_t i0, j0;
  EVENFLOW_HD explicit MatrixShare(int thread) : i0(thread / cols), j0(thread % cols) {}
  EVENFLOW_HD int64_t first_row(int64_t begin) const { return begin + (i0 + rows - begin % rows) % rows; }
  EVENFLOW_HD int64_t first_col(int64_t begin) const { return begin + (j0 + cols - begin % cols) % cols; }
  EVENFLOW_HD bool has_col(int64_t j) const { return j % cols == j0; }
};

/// w = P L U, log_det (1) = log |det w|, inverse = U^-1 L^-1 P^-1 unless null. room: n * n + n. What is no
/// permutation makes NaN of numbers in both.
template <class T, int rows, int cols>
struct LuMatrix {
  static constexpr int threads = rows * cols;
  using Registers = Nothing;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  LuFactors<T> f;
  T* w;
  T* inverse;
  double* log_det;
  double* room;

  /// The diagonal; W; for the inverse P^-1, from which L's columns and U's are eliminated one by one.
  EVENFLOW_HD int64_t phases(int64_t) const { return inverse ? 2 * f.n + 4 : 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared&) const {
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
  EVENFLOW_HD static double none() { return std::numeric_limits<double>::quiet_NaN(); }
  EVENFLOW_HD double* row_of(int64_t i) const { return room + f.n + i * f.n; }

  EVENFLOW_HD void sum_logs() const {
    double total = 0;
    for (int64_t i = 0; i < f.n; ++i) total += static_cast<double>(f.of.logs[i]);
    log_det[0] = total;
  }

  EVENFLOW_HD void multiply(const Share& share, int64_t i) const {
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

  EVENFLOW_HD void permute(const Share& share, int64_t i) const {
    double* x = row_of(i);
    for (int64_t j = share.first_col(0); j < f.n; j += cols) x[j] = f.row(j) == i ? 1 : 0;
  }

  /// Row i of what becomes the inverse -= factor * row k.
  EVENFLOW_HD void eliminate(const Share& share, int64_t i, int64_t k, double factor) const {
    double* x = row_of(i);
    const double* known = row_of(k);
    for (int64_t j = share.first_col(0); j < f.n; j += cols) x[j] -= factor * known[j];
  }
};

/// Gradients of L, U and logs += from dw (n, n), that of logs from pixels * dlogdet[0] too. room: 3 n * n +
/// n.
template <class T, int rows, int cols>
struct LuGradients {
  static constexpr int threads = rows * cols;
  using Registers = Nothing;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  LuFactors<T> f;
  const T* dw;
  const double* dlogdet;
  double pixels;
  LuParameterGradients<T> out;
  double* room;

  /// The diagonal, and U's upper part transposed; the gradients.
  EVENFLOW_HD int64_t phases(int64_t) const { return 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared&) const {
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
  EVENFLOW_HD double* transposed() const { return room + f.n; }

  /// Row i of dW: a row of P^T dW, which times U^T is dL.
  EVENFLOW_HD void add_lower(const Share& share, int64_t i) const {
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
  EVENFLOW_HD void add_upper(const Share& share, int64_t i) const {
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

/// log_det (1) = log |det w|; unless null, exact = w^-1, and inverse the same rounded. Gaussian elimination
/// with partial pivoting; a singular w has log_det = -infinity. Products are rounded, so that all instruction
/// sets agree on the inverse. room: 3 * n * n + n + 1.
template <class T, int rows, int cols>
struct PlainMatrix {
  static constexpr int threads = rows * cols;
  using Registers = Nothing;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  int64_t n;
  const T* w;
  T* inverse;
  double* exact;
  double* log_det;
  double* room;

  /// W; for each column its pivot, the exchange of rows and the elimination below it; the determinant; the
  /// columns of both factors' inverses, one by one; their product.
  EVENFLOW_HD int64_t phases(int64_t) const { return exact ? 4 * n + 2 : 3 * n + 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared&) const {
    const Share share(at.thread);
    if (phase == 0) {
      for (int64_t i = at.thread; i < n * n; i += threads) room[i] = static_cast<double>(w[i]);
      for (int64_t i = at.thread; i < n; i += threads) order()[i] = static_cast<double>(i);
    } else if (phase <= 3 * n) {
      const int64_t k = (phase - 1) / 3, step = (phase - 1) % 3;
      if (step == 0) {
        if (k > 0) divide(at.thread, k - 1);
        if (at.thread == 0) *pivot() = static_cast<double>(pivot_of(k));
      } else if (step == 1) {
        exchange(at.thread, k, static_cast<int64_t>(*pivot()));
      } else if (row_of(k)[k] != 0) {
        for (int64_t i = share.first_row(k + 1); i < n; i += rows) {
          subtract(share, k + 1, n, row_of(i)[k] / row_of(k)[k], row_of(k), row_of(i));
        }
      }
    } else if (phase == 3 * n + 1) {
      if (at.thread == 0) sum_logs();
      for (int64_t i = at.thread; exact && i < n * n; i += threads)
        left(0)[i] = right(0)[i] = i % (n + 1) == 0;
    } else if (phase <= 4 * n) {
      const int64_t k = phase - 3 * n - 2;
      for (int64_t i = share.first_row(0); i < n; i += rows) {
        if (i > k) {
          subtract(share, 0, k + 1, row_of(i)[k], left(k), left(i));
        } else {
          subtract(share, k + 1, n, right(i)[k] / row_of(k)[k], row_of(k), right(i));
        }
      }
    } else {
      for (int64_t i = share.first_row(0); i < n; i += rows) multiply(share, i);
    }
  }

 private:
  EVENFLOW_HD double* row_of(int64_t i) const { return room + i * n; }      ///< of what becomes L and U
  EVENFLOW_HD double* left(int64_t i) const { return room + (n + i) * n; }  ///< of L^-1
  /// Of U^-1, whose columns are not divided by U's diagonal yet.
  EVENFLOW_HD double* right(int64_t i) const { return room + (2 * n + i) * n; }
  EVENFLOW_HD double* order() const { return room + 3 * n * n; }  ///< the rows of W that stand here
  EVENFLOW_HD double* pivot() const { return order() + n; }       ///< the row for the next exchange

  /// Column k of L; no thread asks for it before the next exchange.
  EVENFLOW_HD void divide(int64_t thread, int64_t k) const {
    const double pivot = row_of(k)[k];
    for (int64_t i = k + 1 + thread; pivot != 0 && i < n; i += threads) row_of(i)[k] /= pivot;
  }

  EVENFLOW_HD int64_t pivot_of(int64_t k) const {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (abs_of(row_of(i)[k]) > abs_of(row_of(best)[k])) best = i;
    }
    return best;
  }

  EVENFLOW_HD void exchange(int64_t thread, int64_t k, int64_t with) const {
    for (int64_t j = thread; j < n; j += threads) swap(row_of(k)[j], row_of(with)[j]);
    if (thread == 0) swap(order()[k], order()[with]);
  }

  EVENFLOW_HD static void swap(double& a, double& b) {
    const double before = a;
    a = b;
    b = before;
  }

  /// x -= factor * known, from column `begin` to `end`.
  EVENFLOW_HD void subtract(const Share& share, int64_t begin, int64_t end, double factor,
                            const double* known, double* x) const {
    for (int64_t j = share.first_col(begin); j < end; j += cols) x[j] -= rounded_product(factor, known[j]);
  }

  EVENFLOW_HD void sum_logs() const {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += log(abs_of(row_of(i)[i]));
    log_det[0] = total;
  }

  /// Row i of U^-1 L^-1, whose columns go back to where W's rows were.
  EVENFLOW_HD void multiply(const Share& share, int64_t i) const {
    double* out = exact + i * n;
    for (int64_t j = share.first_col(0); j < n; j += cols) out[place(j)] = 0;
    for (int64_t k = i; k < n; ++k) {
      const double factor = right(i)[k] / row_of(k)[k];
      if (factor == 0) continue;
      for (int64_t j = share.first_col(0); j < n; j += cols) {
        out[place(j)] += rounded_product(factor, left(k)[j]);
      }
    }
    for (int64_t j = share.first_col(0); j < n; j += cols) {
      inverse[i * n + place(j)] = static_cast<T>(out[place(j)]);
    }
  }
  EVENFLOW_HD int64_t place(int64_t j) const { return static_cast<int64_t>(order()[j]); }
};

/// out += dw + pixels * dlogdet[0] * exact^T, matrices (n, n).
template <class T>
struct PlainGradients {
  int64_t n;
  const T* dw;
  const double* exact;
  const double* dlogdet;
  double pixels;
  T* out;
  EVENFLOW_HD void operator()(int64_t i, int64_t j) const {
    const double slope = rounded_product(rounded_product(dlogdet[0], pixels), exact[j * n + i]);
    out[i * n + j] += static_cast<T>(static_cast<double>(dw[i * n + j]) + slope);
  }
};

}  // namespace evenflow::ops

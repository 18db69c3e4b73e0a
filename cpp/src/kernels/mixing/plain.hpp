#pragma once

#include "kernels/mixing/matrix_share.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/place.hpp"

// W of a 1x1 convolution that is stored as it is: its determinant, its inverse and its gradient.

namespace evenflow::ops {

/// log_det (1) = log |det w|, -infinity for a singular w. Unless null, exact = w^-1, and inverse is the same,
/// rounded. By Gaussian elimination with partial pivoting. Products are rounded, so that all instruction
/// sets agree on the inverse. room: 3 * n * n + n + 1.
template <class T, int rows, int cols>
struct PlainMatrix {
  static constexpr int threads = rows * cols;
  using Shared = Nothing;
  using Share = MatrixShare<rows, cols>;
  int64_t n;
  const T* w;
  T* inverse;
  double* exact;
  double* log_det;
  double* room;

  /// Phase 0 copies W. Three phases a column find the pivot, exchange rows, eliminate below. Then comes the
  /// determinant. With `exact`, n - 1 phases invert both factors, and the last multiplies the inverses.
  EVENFLOW_INLINE int64_t phases(int64_t) const { return exact ? 4 * n + 2 : 3 * n + 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared&) const {
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
  EVENFLOW_INLINE double* row_of(int64_t i) const { return room + i * n; }      ///< of what becomes L and U
  EVENFLOW_INLINE double* left(int64_t i) const { return room + (n + i) * n; }  ///< of L^-1
  /// Of U^-1, whose columns are not divided by U's diagonal yet.
  EVENFLOW_INLINE double* right(int64_t i) const { return room + (2 * n + i) * n; }
  EVENFLOW_INLINE double* order() const { return room + 3 * n * n; }  ///< [i]: the row of W that is now row i
  EVENFLOW_INLINE double* pivot() const { return order() + n; }       ///< the row for the next exchange

  /// Column k of L; no thread asks for it before the next exchange.
  EVENFLOW_INLINE void divide(int64_t thread, int64_t k) const {
    const double pivot = row_of(k)[k];
    for (int64_t i = k + 1 + thread; pivot != 0 && i < n; i += threads) row_of(i)[k] /= pivot;
  }

  EVENFLOW_INLINE int64_t pivot_of(int64_t k) const {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (abs_of(row_of(i)[k]) > abs_of(row_of(best)[k])) best = i;
    }
    return best;
  }

  EVENFLOW_INLINE void exchange(int64_t thread, int64_t k, int64_t with) const {
    for (int64_t j = thread; j < n; j += threads) swap(row_of(k)[j], row_of(with)[j]);
    if (thread == 0) swap(order()[k], order()[with]);
  }

  EVENFLOW_INLINE static void swap(double& a, double& b) {
    const double before = a;
    a = b;
    b = before;
  }

  /// x -= factor * known, from column `begin` to `end`.
  EVENFLOW_INLINE void subtract(const Share& share, int64_t begin, int64_t end, double factor,
                                const double* known, double* x) const {
    for (int64_t j = share.first_col(begin); j < end; j += cols) x[j] -= rounded_product(factor, known[j]);
  }

  EVENFLOW_INLINE void sum_logs() const {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += log(abs_of(row_of(i)[i]));
    log_det[0] = total;
  }

  /// Row i of W^-1: column j of U^-1 L^-1 is its column order()[j].
  EVENFLOW_INLINE void multiply(const Share& share, int64_t i) const {
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
  EVENFLOW_INLINE int64_t place(int64_t j) const { return static_cast<int64_t>(order()[j]); }
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
  EVENFLOW_INLINE void operator()(int64_t i, int64_t j) const {
    const double slope = rounded_product(rounded_product(dlogdet[0], pixels), exact[j * n + i]);
    out[i * n + j] += static_cast<T>(static_cast<double>(dw[i * n + j]) + slope);
  }
};

}  // namespace evenflow::ops

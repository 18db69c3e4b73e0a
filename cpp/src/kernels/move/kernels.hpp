#pragma once

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// Copies, sums and multiples of arrays, large and small. Views have equal shapes unless a comment says
/// otherwise; their strides may differ.
template <class T>
class MoveKernels {
 public:
  virtual void copy(Context&, View<const T> x, View<T> y) const = 0;
  virtual void add(Context&, View<const T> x, View<T> y) const = 0;  ///< y += x
  /// n blocks of (h * w, c) values, `from_step` and `to_step` values from one block to the next. A stride of
  /// 0 in `from` repeats one pixel.
  virtual void copy_blocks(Context&, View<const T> from, int64_t from_step, View<T> to,
                           int64_t to_step) const = 0;
  /// y = x on pixels of that parity and 0 on the others, or y += the same.
  virtual void mask_pixels(Context&, View<const T> x, int parity, bool accumulate, View<T> y) const = 0;
  /// y (n, 1, 1, c) += the sums over the pixels of x (n, h, w, c).
  virtual void add_pixel_sums(Context&, View<const T> x, View<T> y) const = 0;

  // n numbers.
  virtual void fill(Context&, int64_t n, T value, T* x) const = 0;
  void zero(Context& ctx, int64_t n, T* x) const { fill(ctx, n, T(0), x); }
  virtual void fill_doubles(Context&, int64_t n, double value, double* x) const = 0;
  virtual void scale(Context&, int64_t n, T factor, T* x) const = 0;  ///< x *= factor
  /// y = factor * x.
  virtual void scale_doubles(Context&, int64_t n, double factor, const double* x, double* y) const = 0;
  /// x (n, d) is contiguous: row i *= factors[i].
  virtual void scale_rows(Context&, int64_t n, int64_t d, const double* factors, T* x) const = 0;
  /// x (n) += factor * total[0], for a total in double and for one that is a parameter.
  virtual void add_total(Context&, int64_t n, double factor, const double* total, double* x) const = 0;
  virtual void add_parameter(Context&, int64_t n, double factor, const T* total, double* x) const = 0;
  /// out (1) = x[0] + ... + x[n - 1].
  virtual void sum_doubles(Context&, int64_t n, const double* x, double* out) const = 0;
  /// out (n) += factor * sums.
  virtual void add_sums(Context&, int64_t n, double factor, const double* sums, T* out) const = 0;

 protected:
  ~MoveKernels() = default;
};

}  // namespace evenflow

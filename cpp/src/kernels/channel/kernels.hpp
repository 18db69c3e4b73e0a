#pragma once

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// Maps of each channel by itself, and what becomes of their parameters.
template <class T>
class ChannelKernels {
 public:
  // y = (x + shift) * scale on pixels with (i + j) % 2 == parity (-1: all); other pixels are copied.
  virtual void forward(Context&, int parity, View<const T> x, const T* shift, const T* scale,
                       View<T> y) const = 0;
  virtual void inverse(Context&, int parity, View<const T> y, const T* shift, const T* scale,
                       View<T> x) const = 0;
  /// sums (2, C): dx, dz * z over the changed pixels.
  virtual void backward(Context&, int parity, View<const T> z, View<const T> dz, const T* shift,
                        const T* scale, View<T> x, View<T> dx, double* sums) const = 0;

  // Batch norm.
  /// Biased moments over all pixels. Those of the other parity count as zeros.
  virtual void moments(Context&, int parity, View<const T> x, T* mean, T* var) const = 0;
  /// sums (2, C): dy, dy * y over the changed pixels.
  virtual void batch_norm_sums(Context&, int parity, View<const T> y, View<const T> dy,
                               double* sums) const = 0;
  /// means (2, n) = sums / pixels. Unless dlogdet is null, active * dlogdet[0] is added to the second row's
  /// sums.
  virtual void norm_means(Context&, int64_t n, const double* sums, const double* dlogdet, double active,
                          double pixels, T* means) const = 0;
  virtual void batch_norm_backward(Context&, int parity, View<const T> y, View<const T> dy, const T* shift,
                                   const T* scale, const T* mean_dy, const T* mean_dyy, View<T> x,
                                   View<T> dx) const = 0;

  // Coefficients from parameters: shift, scale, log_scale (n) of y = (x + shift) * scale.
  /// scale = exp(factor * logs).
  virtual void exp_scale(Context&, int64_t n, T factor, const T* logs, T* scale) const = 0;
  /// From bias (null: 0) and logs; the log scale is factor * logs.
  virtual void log_scale_coefficients(Context&, int64_t n, const T* bias, const T* logs, double factor,
                                      T* shift, T* scale, double* log_scale) const = 0;
  /// From mean and standard deviation.
  virtual void standard_coefficients(Context&, int64_t n, const T* mean, const T* std, T* shift, T* scale,
                                     double* log_scale) const = 0;
  /// From mean and variance + eps.
  virtual void moment_coefficients(Context&, int64_t n, const T* mean, const T* var, double eps, T* shift,
                                   T* scale, double* log_scale) const = 0;
  /// From backward's sums (2, n): dbias (or null) and dlogs +=. dlogdet (1) is the sum over samples.
  virtual void gradients(Context&, int64_t n, const double* sums, const double* dlogdet, double pixels,
                         double factor, T* dbias, T* dlogs) const = 0;

 protected:
  ~ChannelKernels() = default;
};

}  // namespace evenflow

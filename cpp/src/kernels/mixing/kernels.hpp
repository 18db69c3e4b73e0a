#pragma once

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// The parameters of W = P L U (Glow, section 3.2). L has ones on its diagonal, U has sign * exp(logs). Row i
/// of W is row permutation[i] of L U.
template <class T>
struct LuParameters {
  const T* lower;        ///< (n, n), of which the part below the diagonal is read
  const T* upper;        ///< (n, n), of which the part above it is read
  const T* logs;         ///< (n)
  const T* sign;         ///< (n)
  const T* permutation;  ///< (n)
};
template <class T>
struct LuParameterGradients {
  T* lower;
  T* upper;
  T* logs;
};

/// Linear maps across channels: matrices of 1x1 convolutions, orders of channels, and squeezing.
template <class T>
class MixingKernels {
 public:
  /// Whether multiplying n channels by P, L and U in turn is faster than by W. Only true on the host.
  virtual bool mixes_by_factors(int64_t n) const = 0;

  // Matrices of 1x1 convolutions, computed in float64. The products with pixels are NetKernels'.
  /// w (n, n), log_det (1) = log |det w|; inverse (n, n) unless null.
  virtual void lu_matrix(Context&, int64_t n, const LuParameters<T>&, T* w, T* inverse,
                         double* log_det) const = 0;
  /// The gradients' lower, upper and logs +=, from dw (n, n). dlogdet (1) is the sum over samples.
  virtual void lu_gradients(Context&, int64_t n, const LuParameters<T>&, const T* dw, const double* dlogdet,
                            double pixels, const LuParameterGradients<T>&) const = 0;
  /// log_det (1) = log |det w|, -infinity for a singular w (n, n). Unless both are null, exact (n, n) = w^-1,
  /// and inverse (n, n) is the same, rounded.
  virtual void plain_matrix(Context&, int64_t n, const T* w, T* inverse, double* exact,
                            double* log_det) const = 0;
  /// out (n, n) += from dw and exact, (n, n). dlogdet (1) is the sum over samples.
  virtual void plain_gradients(Context&, int64_t n, const T* dw, const double* exact, const double* dlogdet,
                               double pixels, T* out) const = 0;

  // Orders of channels.
  /// order (n) for gather_channels from a stored permutation, or from its inverse. Where the stored numbers
  /// are no permutation, -1 is among them.
  virtual void channel_order(Context&, int64_t n, const T* stored, bool inverse, int32_t* order) const = 0;
  /// y[., c] = x[., order[c]], NaN for -1.
  virtual void gather_channels(Context&, View<const T> x, const int32_t* order, View<T> y) const = 0;

  /// From x (n, h, w, c) to y (n, h/2, w/2, 4c), or back with inverse.
  virtual void squeeze(Context&, bool diagonal, bool inverse, View<const T> x, View<T> y) const = 0;

 protected:
  ~MixingKernels() = default;
};

}  // namespace evenflow

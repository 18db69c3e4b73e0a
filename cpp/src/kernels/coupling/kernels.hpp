#pragma once

#include <array>

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"
#include "kernels/coupling/laws.hpp"

namespace evenflow {

/// Which values of an array a coupling changes, by what law, and where their numbers are in h, whose rows are
/// pixels.
struct CouplingPlan {
  Law law;
  int64_t count = 0;         ///< changed channels
  bool interleaved = false;  ///< h has the numbers of a value side by side; else those of one kind
  int parity = -1;           ///< checkerboards: (i + j) % 2 of changed pixels; -1: every pixel
};

/// Numbers that all values of a layer share, one array of one number each; null: the law's default.
template <class P>
using SharedNumbers = std::array<P, kMostShared>;

/// Couplings. Arrays of values start at the first changed channel. Outputs are overwritten, where a comment
/// does not say +=.
template <class T>
class CouplingKernels {
 public:
  /// logdet (n) += the sums of a sample's log-slopes.
  virtual void forward(Context&, const CouplingPlan&, const SharedNumbers<const T*>&, View<const T> x,
                       View<const T> h, View<T> y, double* logdet) const = 0;
  virtual void inverse(Context&, const CouplingPlan&, const SharedNumbers<const T*>&, View<const T> y,
                       View<const T> h, View<T> x, double* logdet) const = 0;
  /// From forward's outputs and a loss's gradients by them. x_known: x holds the inputs already, and stays;
  /// a FixedLaw computes them again. dshared: += those by shared numbers.
  virtual void backward(Context&, const CouplingPlan&, const SharedNumbers<const T*>&, View<const T> y,
                        View<const T> dy, const double* dlogdet, View<const T> h, bool x_known, View<T> x,
                        View<T> dx, View<T> dh, const SharedNumbers<T*>& dshared) const = 0;
  /// The same from inverse's outputs.
  virtual void inverse_backward(Context&, const CouplingPlan&, const SharedNumbers<const T*>&,
                                View<const T> x, View<const T> dx, const double* dlogdet, View<const T> h,
                                bool y_known, View<T> y, View<T> dy, View<T> dh,
                                const SharedNumbers<T*>& dshared) const = 0;

 protected:
  ~CouplingKernels() = default;
};

}  // namespace evenflow

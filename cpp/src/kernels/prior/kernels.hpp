#pragma once

#include "evenflow/context.hpp"
#include "evenflow/prior.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// What densities are measured by: base distributions, Glow's top prior and its class head, and the noise of
/// integer images. Labels lie on the device.
template <class T>
class PriorKernels {
 public:
  // The top prior.
  /// edge (h * w, channels) of one image.
  virtual void edge(Context&, const Shape& image, int64_t channels, const T* weight, const T* bias,
                    const T* logs, T* edge) const = 0;
  /// h (n, height, width, channels) is contiguous; edge and labels may be null.
  virtual void statistics(Context&, const T* edge, const int32_t* labels, const T* weight, const T* bias,
                          const T* logs, View<T> h) const = 0;
  /// dweight (3, 3, channels), dbias, dlogs (channels) +=.
  virtual void edge_gradients(Context&, View<const T> dh, const T* edge, const T* logs, T* dweight, T* dbias,
                              T* dlogs) const = 0;
  /// dweight (classes, channels), dbias, dlogs (channels) +=.
  virtual void class_gradients(Context&, View<const T> dh, const int32_t* labels, const T* weight,
                               const T* bias, const T* logs, T* dweight, T* dbias, T* dlogs) const = 0;

  // The class head.
  /// pooled (n, c), raw and logp (n, classes).
  virtual void head_log_prob(Context&, View<const T> x, int64_t classes, const T* weight, const T* bias,
                             const T* logs, double* pooled, double* raw, double* logp) const = 0;
  /// results (2): the sum of losses, and how many predictions are wrong; a sample counts for its weight (n;
  /// null: 1). dweight (channels, classes), dbias, dlogs (classes), dx += the gradients of factor * losses.
  virtual void head_backward(Context&, int64_t classes, const int32_t* labels, const double* sample_weight,
                             const T* weight, const T* logs, double factor, const double* pooled,
                             const double* raw, const double* logp, T* dweight, T* dbias, T* dlogs,
                             View<T> dx, double* results) const = 0;

  // Base distributions.
  /// out (n) += log p0(z); dz = scale * d log p0 / dz unless null. z (n, d) is contiguous.
  virtual void base_log_prob(Context&, Base, int64_t n, int64_t d, const T* z, T scale, T* dz,
                             double* out) const = 0;
  /// out (n, d) = scale * draws; row i is sample first + i.
  virtual void base_sample(Context&, Base, int64_t n, int64_t d, T scale, uint64_t seed, uint64_t first,
                           T* out) const = 0;

  /// x, out (n, count): floor(x / 2^(8 - bits)), plus the noise of sample first + i unless noise is false.
  virtual void dequantize(Context&, int64_t n, int64_t count, const uint8_t* x, int bits, bool noise,
                          uint64_t seed, uint64_t first, T* out) const = 0;

 protected:
  ~PriorKernels() = default;
};

}  // namespace evenflow

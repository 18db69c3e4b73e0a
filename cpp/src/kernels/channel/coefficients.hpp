#pragma once

#include "kernels/ops/math.hpp"

// Coefficients of channel maps from parameters, and gradients of parameters from sums, which are in double.
// These few numbers, one a channel, are computed where they are used: on a device they stay there.

namespace evenflow::ops {

/// scale = exp(factor * logs).
template <class T>
struct ExpScale {
  T factor;
  const T* logs;
  T* scale;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const { scale[c] = rounded_exp(factor * logs[c]); }
};

/// shift = bias (null: 0), scale = exp(factor * logs).
template <class T>
struct LogScaleCoefficients {
  const T* bias;
  const T* logs;
  double factor;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    shift[c] = bias ? bias[c] : T(0);
    scale[c] = rounded_exp(T(factor) * logs[c]);
    log_scale[c] = factor * static_cast<double>(logs[c]);
  }
};

/// shift = -mean, scale = 1 / std.
template <class T>
struct StandardCoefficients {
  const T* mean;
  const T* std;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    shift[c] = -mean[c];
    scale[c] = T(1) / std[c];
    log_scale[c] = -log(static_cast<double>(std[c]));
  }
};

/// shift = -mean, scale = 1 / sqrt(var + eps).
template <class T>
struct MomentCoefficients {
  const T* mean;
  const T* var;
  double eps;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    shift[c] = -mean[c];
    scale[c] = static_cast<T>(1 / sqrt(static_cast<double>(var[c]) + eps));
    log_scale[c] = log(static_cast<double>(scale[c]));
  }
};

/// dbias += sums[c], dlogs += factor * (sums[channels + c] + pixels * dlogdet[0]); dbias may be null.
template <class T>
struct ChannelGradients {
  const double* sums;
  const double* dlogdet;
  double pixels;
  double factor;
  int64_t channels;
  T* dbias;
  T* dlogs;
  EVENFLOW_INLINE void operator()(int64_t, int64_t c) const {
    if (dbias) dbias[c] += static_cast<T>(sums[c]);
    dlogs[c] += static_cast<T>(factor * (sums[channels + c] + pixels * dlogdet[0]));
  }
};

}  // namespace evenflow::ops

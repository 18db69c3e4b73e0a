#pragma once

#include "kernels/ops/constants.hpp"
#include "kernels/ops/math.hpp"

// Glow's learned top prior. Log scales are 3 * logs. A thread computes one output, so that sums have a fixed
// order; the arrays are no larger than the coarsest latent.

namespace evenflow::ops {

/// Whether a tap of a 3x3 kernel at pixel p reads outside of the image.
EVENFLOW_INLINE bool tap_outside(int64_t p, int64_t tap, int64_t height, int64_t width) {
  const int64_t i = p / width + tap / 3 - 1, j = p % width + tap % 3 - 1;
  return i < 0 || i >= height || j < 0 || j >= width;
}

/// edge (pixels, channels): the convolution of an empty image, in which only the edge indicator is not 0.
template <class T>
struct PriorEdge {
  int64_t height;
  int64_t width;
  const T* weight;  ///< (3, 3, channels)
  const T* bias;
  const T* logs;
  int64_t channels;
  T* edge;
  EVENFLOW_INLINE void operator()(int64_t p, int64_t k) const {
    T sum = T(0);
    for (int64_t tap = 0; tap < 9; ++tap) {
      if (tap_outside(p, tap, height, width)) sum += weight[tap * channels + k];
    }
    edge[p * channels + k] = (sum + bias[k]) * rounded_exp(T(kLogScale) * logs[k]);
  }
};

/// h (n * pixels, channels) = edge of the pixel + part of the sample's class; either may be missing.
template <class T>
struct PriorStatistics {
  int64_t pixels;
  int64_t channels;
  const T* edge;
  const int32_t* labels;
  const T* weight;  ///< (classes, channels)
  const T* bias;
  const T* logs;
  T* h;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t k) const {
    T value = edge ? edge[row % pixels * channels + k] : T(0);
    if (labels) {
      const T inner = weight[labels[row / pixels] * channels + k] + bias[k];
      value = static_cast<T>(multiply_add(inner, rounded_exp(T(kLogScale) * logs[k]), value));
    }
    h[row * channels + k] = value;
  }
};

/// Gradients of PriorEdge from sums (pixels, channels) of dh over samples.
template <class T>
struct PriorEdgeGradients {
  int64_t height;
  int64_t width;
  const double* sums;
  const T* edge;
  const T* logs;
  int64_t channels;
  T* dweight;
  T* dbias;
  T* dlogs;
  EVENFLOW_INLINE void operator()(int64_t, int64_t k) const {
    const double scale = exp(kLogScale * static_cast<double>(logs[k]));
    T to_bias = dbias[k], to_logs = dlogs[k];
    for (int64_t p = 0; p < height * width; ++p) {
      const double g = sums[p * channels + k], inner = g * scale;
      to_bias += static_cast<T>(inner);
      to_logs += static_cast<T>(kLogScale * g * static_cast<double>(edge[p * channels + k]));
      for (int64_t tap = 0; tap < 9; ++tap) {
        if (tap_outside(p, tap, height, width)) dweight[tap * channels + k] += static_cast<T>(inner);
      }
    }
    dbias[k] = to_bias;
    dlogs[k] = to_logs;
  }
};

/// Gradients of the class's part from dh (n * pixels, channels).
template <class T>
struct PriorClassGradients {
  int64_t n;
  int64_t pixels;
  int64_t channels;
  const T* dh;
  const int32_t* labels;
  const T* weight;
  const T* bias;
  const T* logs;
  T* dweight;
  T* dbias;
  T* dlogs;
  EVENFLOW_INLINE void operator()(int64_t, int64_t k) const {
    const double scale = exp(kLogScale * static_cast<double>(logs[k]));
    T to_bias = dbias[k], to_logs = dlogs[k];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = labels[i] * channels + k;
      double g = 0;
      for (int64_t p = 0; p < pixels; ++p) g += dh[(i * pixels + p) * channels + k];
      const T part = (weight[at] + bias[k]) * rounded_exp(T(kLogScale) * logs[k]);
      const T inner = static_cast<T>(g * scale);
      dweight[at] += inner;
      to_bias += inner;
      to_logs += static_cast<T>(kLogScale * g * static_cast<double>(part));
    }
    dbias[k] = to_bias;
    dlogs[k] = to_logs;
  }
};

}  // namespace evenflow::ops

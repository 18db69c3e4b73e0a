#pragma once

#include "kernels/ops/constants.hpp"
#include "kernels/ops/math.hpp"

// Glow's class head. Log scales are 3 * logs. A thread computes one output, so that sums have a fixed order;
// the arrays are no larger than the coarsest latent.

namespace evenflow::ops {

/// pooled (n, channels): means over pixels.
template <class T>
struct HeadPool {
  int64_t pixels;
  const T* x;
  int64_t x_stride;
  int64_t channels;
  double* pooled;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t c) const {
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += x[(i * pixels + p) * x_stride + c];
    pooled[i * channels + c] = sum / static_cast<double>(pixels);
  }
};

/// raw (n, classes): the head's logits before the scale.
template <class T>
struct HeadLogits {
  const double* pooled;
  int64_t channels;
  int64_t classes;
  const T* weight;  ///< (channels, classes)
  const T* bias;
  double* raw;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t y) const {
    double logit = bias[y];
    for (int64_t c = 0; c < channels; ++c) logit += pooled[i * channels + c] * weight[c * classes + y];
    raw[i * classes + y] = logit;
  }
};

/// logp (n, classes) from raw; one thread a sample.
template <class T>
struct HeadLogProb {
  const double* raw;
  const T* logs;
  int64_t classes;
  double* logp;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t) const {
    double* row = logp + i * classes;
    double top = -HUGE_VAL;
    for (int64_t y = 0; y < classes; ++y) {
      row[y] = raw[i * classes + y] * exp(kLogScale * static_cast<double>(logs[y]));
      top = max_of(top, row[y]);
    }
    double sum = 0;
    for (int64_t y = 0; y < classes; ++y) sum += exp(row[y] - top);
    for (int64_t y = 0; y < classes; ++y) row[y] -= top + log(sum);
  }
};

/// results (2): the sum of -logp of the labels, and the number of samples whose most probable class is
/// another. One thread computes both.
struct HeadLoss {
  const double* logp;
  const int32_t* labels;
  const double* sample_weight;  ///< what a sample counts for; null: 1
  int64_t n;
  int64_t classes;
  double* results;
  EVENFLOW_INLINE void operator()(int64_t, int64_t) const {
    double loss = 0, wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double* row = logp + i * classes;
      int64_t best = 0;
      for (int64_t y = 1; y < classes; ++y) best = row[y] > row[best] ? y : best;
      const double own = sample_weight ? sample_weight[i] : 1.0;
      loss -= own * row[labels[i]];
      wrong += best != labels[i] ? own : 0.0;
    }
    results[0] = loss;
    results[1] = wrong;
  }
};

/// dlogit (n, classes): the gradient of factor * the sum of losses by the raw logits.
template <class T>
struct HeadLossGradient {
  const double* logp;
  const int32_t* labels;
  const double* sample_weight;  ///< null: 1
  const T* logs;
  int64_t classes;
  double factor;
  double* dlogit;
  EVENFLOW_INLINE void operator()(int64_t i, int64_t y) const {
    const double p = exp(logp[i * classes + y]), own = sample_weight ? factor * sample_weight[i] : factor;
    dlogit[i * classes + y] =
        own * (p - (y == labels[i] ? 1.0 : 0.0)) * exp(kLogScale * static_cast<double>(logs[y]));
  }
};

/// Gradients of the weight (rows c < channels), and of bias and logs (the row after).
template <class T>
struct HeadGradients {
  int64_t n;
  const double* pooled;
  const double* raw;
  const double* dlogit;
  int64_t channels;
  int64_t classes;
  T* dweight;
  T* dbias;
  T* dlogs;
  EVENFLOW_INLINE void operator()(int64_t c, int64_t y) const {
    if (c < channels) {
      T total = dweight[c * classes + y];
      for (int64_t i = 0; i < n; ++i) {
        total += static_cast<T>(dlogit[i * classes + y] * pooled[i * channels + c]);
      }
      dweight[c * classes + y] = total;
      return;
    }
    T to_bias = dbias[y], to_logs = dlogs[y];
    for (int64_t i = 0; i < n; ++i) {
      const double g = dlogit[i * classes + y];
      to_bias += static_cast<T>(g);
      to_logs += static_cast<T>(kLogScale * g * raw[i * classes + y]);
    }
    dbias[y] = to_bias;
    dlogs[y] = to_logs;
  }
};

/// dx += the head's gradient; rows are pixels.
template <class T>
struct HeadInputGradient {
  int64_t pixels;
  const double* dlogit;
  const T* weight;
  int64_t classes;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    double g = 0;
    for (int64_t y = 0; y < classes; ++y) g += dlogit[row / pixels * classes + y] * weight[c * classes + y];
    dx[row * dx_stride + c] += static_cast<T>(g / static_cast<double>(pixels));
  }
};

}  // namespace evenflow::ops

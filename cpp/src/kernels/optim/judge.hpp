#pragma once

#include "kernels/ops/math.hpp"

// Whether results are finite, and how far they are from what they should be.

namespace evenflow::ops {

/// 1 for a value that is not finite.
template <class T>
struct NotFinite {
  const T* x;
  int64_t x_stride;
  EVENFLOW_INLINE double operator()(int64_t row, int64_t c) const {
    const T value = x[row * x_stride + c];
    return value - value == T(0) ? 0.0 : 1.0;
  }
};

/// For sample i of a and b, each `pixels` rows of cols values: max |a - b| / max(1, max |b|), infinite where
/// it is no number. One large sample thus hides nothing of the others.
template <class T>
struct SampleDistance {
  int64_t pixels, cols;
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  EVENFLOW_INLINE double operator()(int64_t, int64_t sample) const {
    constexpr int kLanes = 8;
    T error[kLanes] = {}, size[kLanes] = {T(1)};
    for (int64_t pixel = sample * pixels, end = pixel + pixels; pixel < end; ++pixel) {
      const T* got = a + pixel * a_stride;
      const T* truth = b + pixel * b_stride;
      int64_t c = 0;
      for (; c + kLanes <= cols; c += kLanes) {
        for (int l = 0; l < kLanes; ++l) see(got[c + l], truth[c + l], error[l], size[l]);
      }
      for (; c < cols; ++c) see(got[c], truth[c], error[0], size[0]);
    }
    for (int l = 1; l < min_of<int64_t>(cols, kLanes); ++l) {
      error[0] = max_of(error[0], error[l]);
      size[0] = max_of(size[0], size[l]);
    }
    return static_cast<double>(error[0]) / static_cast<double>(size[0]);
  }

 private:
  EVENFLOW_INLINE static void see(T got, T truth, T& error, T& size) {
    error = max_of(error, min_of(abs_of(got - truth), T(HUGE_VAL)));
    size = max_of(size, abs_of(truth));
  }
};

}  // namespace evenflow::ops

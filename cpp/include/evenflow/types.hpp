#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "evenflow/export.h"

namespace evenflow {

/// Shape of a batch, NHWC. A table of N rows and D columns is (N, 1, 1, D).
struct Shape {
  int64_t n = 0;
  int64_t h = 1;
  int64_t w = 1;
  int64_t c = 1;

  int64_t pixels() const { return n * h * w; }
  int64_t pixels_per_sample() const { return h * w; }
  int64_t per_sample() const { return h * w * c; }
  int64_t size() const { return n * h * w * c; }
  Shape with_batch(int64_t batch) const { return {batch, h, w, c}; }
  Shape with_channels(int64_t channels) const { return {n, h, w, channels}; }

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
  }
  friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }
};

/// "(n, h, w, c)", for messages.
EVENFLOW_API std::string to_string(const Shape& shape);

/// Bounds of a table column: values lie strictly between them. An infinite one is no bound.
struct Bounds {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};

/// What the hidden units of dense nets compute: leaky_relu with slope 0.01, silu x sigmoid(x), elu e^x - 1
/// below 0.
enum class Activation { relu, leaky_relu, tanh, silu, elu };

/// A batch that the view does not own: pixels() rows of c values, with `stride` values from one row to the
/// next. Rows are equally spaced, so a slice of channels is a view too.
template <class T>
struct View {
  T* data = nullptr;
  Shape shape;
  int64_t stride = 0;

  View() = default;
  View(T* data_, Shape shape_) : data(data_), shape(shape_), stride(shape_.c) {}
  View(T* data_, Shape shape_, int64_t stride_) : data(data_), shape(shape_), stride(stride_) {}

  bool contiguous() const { return stride == shape.c; }

  /// Channels [first, first + count) of every pixel.
  View channels(int64_t first, int64_t count) const {
    return View(data + first, shape.with_channels(count), stride);
  }

  operator View<const T>() const {
    static_assert(!std::is_const<T>::value, "already const");
    return View<const T>(data, shape, stride);
  }
};

}  // namespace evenflow

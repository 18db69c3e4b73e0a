#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "evenflow/error.hpp"
#include "evenflow/model.hpp"
#include "flow/checks.hpp"

// Checks that every call of a Model makes before it computes.

namespace evenflow {

/// Claims a context for one call, so that a second call on it is an error.
class ContextUse {
 public:
  ContextUse(const char* call, Context& ctx) : ctx_(ctx) {
    if (!ctx.on_host()) {
      fail<DeviceError>(call, "expected a context of the CPU, where the model is, got ", ctx.device_name());
    }
    if (ctx.busy_.test_and_set(std::memory_order_acquire)) {
      fail<ConfigError>(call, "another call is using this context; make one for each thread");
    }
  }
  ~ContextUse() { ctx_.busy_.clear(std::memory_order_release); }
  ContextUse(const ContextUse&) = delete;
  ContextUse& operator=(const ContextUse&) = delete;

 private:
  Context& ctx_;
};

/// The stride of rows of `width` values. least: the smallest that the call takes.
inline int64_t stride_of(const char* call, const char* rows, int64_t stride, int64_t width, int64_t least) {
  if (stride == kContiguous) return width;
  if (stride < least || (stride > 0 && stride < width)) {
    fail<ConfigError>(call, "expected ", least ? "" : "0, or ", "at least ", width,
                      " values from one row of ", rows, " to the next, got a stride of ", stride);
  }
  return stride;
}

template <class T>
void check_batch(const char* call, int64_t n, const Flow<T>& flow, const CallOptions& options) {
  if (n < 1) fail<ShapeError>(call, "expected at least one sample, got ", n);
  // No index or size overflows, in bytes of doubles, of which the largest arrays are.
  constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMostValues = kLast / static_cast<int64_t>(sizeof(double));
  const int64_t row =
      std::max({stride_of(call, "x", options.x_stride, flow.dims(), flow.dims()),
                stride_of(call, "the context", options.context.stride, flow.context(), 0), int64_t{1}});
  if (n > kMostValues / row) {
    fail<ShapeError>(call, "expected at most ", kMostValues / row, " samples of ", row, " values, got ", n);
  }
  if (options.first < 0) fail<ConfigError>(call, "expected first >= 0, got ", options.first);
  if (n > kLast - options.first) {
    fail<ConfigError>(call, "expected first <= ", kLast - n, " with ", n, " rows, got ", options.first);
  }
  if (options.labels && !flow.classes()) {
    fail<ConfigError>(call, "labels were given, but the model has no classes");
  }
  check_labels(call, options.labels, n, flow.classes());
  if (options.context.values && !flow.context()) {
    fail<ConfigError>(call, "a context was given, but the model has none");
  }
  if (!options.context.values && flow.context()) {
    fail<ConfigError>(call, "expected a context of ", flow.context(), " numbers a row, got none");
  }
}

/// Labels or context of rows [first, first + n) of a checked call. dcontext: for the gradient by the context
/// of all rows, or null. NumericError for a context value that is not finite in T.
template <class T>
Given<T> given_of(const char* call, WorkspaceScope& scope, const Flow<T>& flow, const CallOptions& options,
                  int64_t first, int64_t n, T* dcontext = nullptr) {
  const int64_t width = flow.context();
  if (!width) return options.labels ? options.labels + first : nullptr;
  T* context = scope.take<T>(n * width);
  const auto convert = [&](const auto* values) {
    const int64_t stride = stride_of(call, "the context", options.context.stride, width, 0);
    for (int64_t row = first; row < first + n; ++row) {
      for (int64_t c = 0; c < width; ++c) {
        const auto value = values[row * stride + c];
        T& converted = context[(row - first) * width + c];
        converted = static_cast<T>(value);
        if (std::isfinite(converted)) continue;
        const std::string expected = std::isfinite(value)
                                         ? text_of("a context that ", to_string(dtype_of<T>()), " holds")
                                         : "a finite context";
        fail<NumericError>(call, "expected ", expected, ", got ", value, " in row ", row, ", number ", c);
      }
    }
  };
  if (options.context.dtype == Dtype::float32) {
    convert(static_cast<const float*>(options.context.values));
  } else {
    convert(static_cast<const double*>(options.context.values));
  }
  return Given<T>(context, dcontext ? dcontext + first * width : nullptr);
}

/// first: the number of the first row.
template <class T>
void check_finite(const char* call, const T* rows, int64_t n, int64_t width, int64_t stride, int64_t first) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < width; ++c) {
      const T value = rows[i * stride + c];
      if (std::isfinite(value)) continue;
      fail<NumericError>(call, "expected finite values, got ", value, " in row ", first + i, ", value ", c);
    }
  }
}

/// Copies n rows of `width` values.
template <class T>
void copy_rows(const T* from, int64_t from_stride, int64_t n, int64_t width, T* to, int64_t to_stride) {
  for (int64_t i = 0; i < n; ++i) std::copy_n(from + i * from_stride, width, to + i * to_stride);
}

}  // namespace evenflow

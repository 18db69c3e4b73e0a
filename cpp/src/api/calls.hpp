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

template <class T>
void check_batch(const char* call, int64_t n, const Flow<T>& flow, const CallOptions& options) {
  if (n < 1) fail<ShapeError>(call, "expected at least one sample, got ", n);
  constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
  constexpr int64_t kValue = sizeof(T), kDouble = sizeof(double);
  // Row size of the widest array in bytes; limits n so that no index or size overflows.
  const int64_t row = std::max({flow.dims() * kValue, flow.context() * kDouble, kDouble});
  if (n > kLast / row) {
    fail<ShapeError>(call, "expected at most ", kLast / row, " samples of ", row, " bytes, got ", n);
  }
  if (options.first < 0) fail<ConfigError>(call, "expected first >= 0, got ", options.first);
  if (n > kLast - options.first) {
    fail<ConfigError>(call, "expected first <= ", kLast - n, " with ", n, " rows, got ", options.first);
  }
  if (options.labels && !flow.classes()) {
    fail<ConfigError>(call, "labels were given, but the model has no classes");
  }
  check_labels(call, options.labels, n, flow.classes());
  if (options.context && !flow.context()) {
    fail<ConfigError>(call, "a context was given, but the model has none");
  }
  if (!options.context && flow.context()) {
    fail<ConfigError>(call, "expected a context of ", flow.context(), " numbers a row, got none");
  }
}

/// Labels or context of rows [first, first + n) of a checked call. NumericError for a context value that is
/// not finite in T.
template <class T>
Given<T> given_of(const char* call, WorkspaceScope& scope, const Flow<T>& flow, const CallOptions& options,
                  int64_t first, int64_t n) {
  const int64_t width = flow.context();
  if (!width) return options.labels ? options.labels + first : nullptr;
  const double* from = options.context + first * width;
  T* context = scope.take<T>(n * width);
  for (int64_t i = 0; i < n * width; ++i) {
    context[i] = static_cast<T>(from[i]);
    if (std::isfinite(context[i])) continue;
    const std::string expected = std::isfinite(from[i])
                                     ? text_of("a context that ", to_string(dtype_of<T>()), " holds")
                                     : "a finite context";
    fail<NumericError>(call, "expected ", expected, ", got ", from[i], " in row ", first + i / width,
                       ", number ", i % width);
  }
  return Given<T>(context);
}

template <class T>
void check_finite(const char* call, const T* values, int64_t n, int64_t row_size) {
  for (int64_t i = 0; i < n * row_size; ++i) {
    if (std::isfinite(values[i])) continue;
    fail<NumericError>(call, "expected finite values, got ", values[i], " in row ", i / row_size, ", value ",
                       i % row_size);
  }
}

}  // namespace evenflow

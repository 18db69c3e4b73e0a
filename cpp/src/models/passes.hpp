#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Rebuilt inputs may be off by this much, relative to the largest value of the batch.
template <class T>
constexpr double drift_tolerance() {
  return std::is_same<T, float>::value ? 1e-3 : 1e-8;
}

/// Pairs of numbers that tell how far a rebuilt batch is off: of x, and of what a standardising layer makes
/// of it; see Flow::PassArrays.
constexpr int64_t kDrifts = 2;
inline double largest_drift(const double* found) {
  const double x = relative_distance(found), standardised = relative_distance(found + 2);
  return x >= standardised ? x : standardised;
}

/// A number in the key of a pass, see Context::repeat.
inline uint64_t bit_pattern(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// The values of v, without room between its rows, where the program reads them while both scopes last.
template <class T>
const T* dense_on_host(Context& ctx, WorkspaceScope& scope, HostScope& host, View<const T> v) {
  const View<T> dense(scope.take<T>(v.shape.size()), v.shape);
  ctx.kernels<T>().copy(ctx, v, dense);
  return host.read(static_cast<const T*>(dense.data), v.shape.size());
}

struct NotFinite {
  int64_t sample = -1;
  int64_t channel = 0;
  double value = 0;
};

/// The first value that is not finite; sample -1: there is none.
template <class T>
NotFinite first_not_finite(Context& ctx, View<const T> v) {
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const T* values = dense_on_host(ctx, scope, host, v);
  for (int64_t i = 0; i < v.shape.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    return {i / v.shape.per_sample(), i % v.shape.c, static_cast<double>(values[i])};
  }
  return {};
}

/// What calls with labels, clip_grad_norm and update_average refuse.
void check_labels(const char* call, const int32_t* labels, int64_t n, int64_t classes);
void check_max_norm(double max_norm);
void check_average_decay(double decay);

}  // namespace evenflow

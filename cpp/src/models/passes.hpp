#pragma once

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
inline uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// What calls with labels, clip_grad_norm and update_average refuse.
void check_labels(const char* call, const int32_t* labels, int64_t n, int64_t classes);
void check_max_norm(double max_norm);
void check_average_decay(double decay);

}  // namespace evenflow

#pragma once

#include <cstdint>
#include <type_traits>

namespace evenflow {

/// Largest error of rebuilt inputs that is accepted, relative to the largest value of their row.
template <class T>
constexpr double drift_tolerance() {
  return std::is_same<T, float>::value ? 1e-3 : 1e-8;
}

// Checks of arguments: labels, and those of clip_grad_norm and update_average.
void check_labels(const char* call, const int32_t* labels, int64_t n, int64_t classes);
void check_max_norm(double max_norm);
void check_average_decay(double decay);

}  // namespace evenflow

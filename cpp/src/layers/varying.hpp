#pragma once

#include <cmath>
#include <limits>
#include <string>

#include "evenflow/error.hpp"

namespace evenflow {

/// Whether a channel with this mean and variance varies. Rounding gives a constant channel some variance,
/// too.
template <class T>
bool varies(T mean, T var) {
  const double step = static_cast<double>(mean) * std::numeric_limits<T>::epsilon();
  return static_cast<double>(var) > 1e4 * step * step;
}

/// NumericError, naming layer `name`, for a column that is constant or that T resolves in a few steps only. A
/// density on such a column would grow without bound.
template <class T>
void check_columns(const std::string& name, const T* mean, const T* var, int64_t columns) {
  constexpr bool single = std::is_same<T, float>::value;
  for (int64_t c = 0; c < columns; ++c) {
    if (!std::isfinite(mean[c]) || !std::isfinite(var[c]) || var[c] == 0) {
      // Values beyond the square root of T's range have a variance that underflows or overflows. Large values
      // may differ by less than T resolves.
      fail<NumericError>(name, "expected a finite, varying column, got mean ", mean[c], ", variance ", var[c],
                         " in column ", c, "; leave a constant column out; if it varies, subtract an offset",
                         single ? ", or take dtype float64 or another unit" : " or take another unit");
    }
    if (!varies(mean[c], var[c])) {
      fail<NumericError>(name, "expected a column that varies by more than ", single ? "float32" : "float64",
                         " resolves, got mean ", mean[c], ", variance ", var[c], " in column ", c,
                         "; leave a constant column out, else subtract an offset",
                         single ? " or take dtype float64" : "");
    }
  }
}

}  // namespace evenflow

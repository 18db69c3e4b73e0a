#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "evenflow/error.hpp"

namespace evenflow {

/// The channel that a stored permutation names at c. Parameters come from files and from callers who write
/// into them, so a value is looked at before it is an index: NumericError unless it is one of 0 ... n - 1.
template <class T>
int32_t order_at(const std::string& name, const T* stored, int64_t n, int64_t c) {
  const T value = stored[c];
  if (!(value >= T(0) && value < static_cast<T>(n)) || value != static_cast<T>(static_cast<int32_t>(value))) {
    fail<NumericError>(name, "expected a permutation of 0 ... ", n - 1, ", got ", value, " at ", c);
  }
  return static_cast<int32_t>(value);
}

/// order[i] = the c whose stored channel is i; NumericError unless each of 0 ... n - 1 is there once.
template <class T>
void invert_order(const std::string& name, const T* stored, int64_t n, int32_t* order) {
  std::fill(order, order + n, -1);
  for (int64_t c = 0; c < n; ++c) {
    int32_t& place = order[order_at(name, stored, n, c)];
    if (place >= 0) {
      fail<NumericError>(name, "expected a permutation of 0 ... ", n - 1, ", got ", stored[c], " twice");
    }
    place = static_cast<int32_t>(c);
  }
}

}  // namespace evenflow

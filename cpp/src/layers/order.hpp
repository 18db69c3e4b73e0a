#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "evenflow/error.hpp"

namespace evenflow {

/// order[i] = the c whose stored channel is i. Parameters come from files and from callers who write into
/// them, so a value is looked at before it is an index: NumericError unless each of 0 ... n - 1 is there
/// once.
template <class T>
void invert_order(const std::string& name, const T* stored, int64_t n, int32_t* order) {
  std::fill(order, order + n, -1);
  for (int64_t c = 0; c < n; ++c) {
    const T value = stored[c];
    const bool named = value >= T(0) && value < static_cast<T>(n);
    if (!named || value != static_cast<T>(static_cast<int32_t>(value))) {
      fail<NumericError>(name, "expected a permutation of 0 ... ", n - 1, ", got ", value, " at ", c);
    }
    int32_t& place = order[static_cast<int32_t>(value)];
    if (place >= 0) {
      fail<NumericError>(name, "expected a permutation of 0 ... ", n - 1, ", got ", value, " twice");
    }
    place = static_cast<int32_t>(c);
  }
}

}  // namespace evenflow

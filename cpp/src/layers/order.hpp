#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "evenflow/error.hpp"

namespace evenflow {

/// order[i] = the c with stored[c] = i. NumericError unless `stored` is a permutation of 0 ... n - 1: files
/// and callers can set parameters, so values are checked before they are used as indices.
template <class T>
void invert_order(const std::string& name, const T* stored, int64_t n, int32_t* order) {
  std::fill(order, order + n, -1);
  for (int64_t c = 0; c < n; ++c) {
    const T value = stored[c];
    const bool in_range = value >= T(0) && value < static_cast<T>(n);
    if (!in_range || value != static_cast<T>(static_cast<int32_t>(value))) {
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

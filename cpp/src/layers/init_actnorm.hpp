#pragma once

#include <limits>
#include <string>

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// Whether a channel of this mean and variance varies: rounding alone leaves some variance in a constant one.
template <class T>
bool varies(T mean, T var) {
  return var > mean * mean * std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon() * T(1e4);
}

/// Sets bias and logs so that (x + bias) exp(3 logs) has mean 0 and std 1 in every channel of x. NumericError
/// on a constant channel or a value that is not finite; nothing is written then.
template <class T>
void init_actnorm(Context& ctx, const std::string& name, View<const T> x, T* bias, T* logs);

}  // namespace evenflow

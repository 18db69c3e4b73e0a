#pragma once

#include <string>

#include "evenflow/context.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// Sets bias and logs so that (x + bias) exp(3 logs) has mean 0 and std 1 in every channel of x. NumericError
/// on a constant channel or a value that is not finite; nothing is written then.
template <class T>
void init_actnorm(Context& ctx, const std::string& name, View<const T> x, T* bias, T* logs);

}  // namespace evenflow

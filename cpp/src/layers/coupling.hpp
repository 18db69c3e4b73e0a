#pragma once

#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Both couplings: part of x passes and feeds the net, the other part is transformed by `law`.
template <class T>
std::unique_ptr<Layer<T>> coupling(const char* kind, Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                   CouplingLaw law, const AffineOptions& options);

}  // namespace evenflow

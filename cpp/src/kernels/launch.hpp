#pragma once

#include "kernels/channel/launch.hpp"
#include "kernels/coupling/launch.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/mixing/launch.hpp"
#include "kernels/move/launch.hpp"
#include "kernels/net/launch.hpp"
#include "kernels/optim/launch.hpp"
#include "kernels/prior/launch.hpp"

// A topic's launch sequences are written once; a backend supplies loops and reductions (Exec) and a subclass
// of NetLaunch. They follow no pointer: functors and products do, wherever they run.

namespace evenflow {

/// All topics over the loops of `net`.
template <class Exec, class T>
KernelSet<T> kernel_set_of(const char* isa, const NetLaunch<Exec, T>& net) {
  static const ChannelLaunch<Exec, T> channel;
  static const CouplingLaunch<Exec, T> coupling;
  static const MixingLaunch<Exec, T> mixing;
  static const MoveLaunch<Exec, T> move;
  static const OptimLaunch<Exec, T> optim;
  static const PriorLaunch<Exec, T> prior;
  return {isa, channel, coupling, mixing, move, net, optim, prior};
}

template <class Net>
const auto& kernel_set_of() {
  static const Net net;
  static const auto kernels = kernel_set_of(Net::name, net);
  return kernels;
}

}  // namespace evenflow

#pragma once

#include "kernels/device/products.hpp"

namespace evenflow {

// A net's units by Launcher::Units; H: how hidden activations are stored, and what is multiplied.
// matrix_stacks.hpp defines them, for a source file of each H: they take a compiler as long as all other
// kernels of float32 numbers.

template <class Launcher, class H>
void mma_stack_forward(Context&, const StackUnit<float>* units, int count, View<const float> x, H* acts,
                       View<float> h);
template <class Launcher, class H>
void mma_stack_backward(Context&, const StackUnit<float>* units, int count, View<const float> x,
                        const H* acts, View<const float> dh, View<float> dx);

/// A device's products of float32 numbers, with chains by Launcher::Units. Single convolutions are
/// DeviceProducts'.
template <class Launcher>
struct ProductsWithMma : DeviceProducts<Launcher, float> {
  template <class H>
  static void stack_forward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
                            H* acts, View<float> h) {
    mma_stack_forward<Launcher>(ctx, units, count, x, acts, h);
  }
  template <class H>
  static void stack_backward(Context& ctx, const StackUnit<float>* units, int count, View<const float> x,
                             const H* acts, View<const float> dh, View<float> dx) {
    mma_stack_backward<Launcher>(ctx, units, count, x, acts, dh, dx);
  }
};

}  // namespace evenflow

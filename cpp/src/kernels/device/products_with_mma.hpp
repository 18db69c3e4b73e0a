#pragma once

#include "kernels/device/products.hpp"

namespace evenflow {

// A net's units by Launcher::Mma. H is the type of stored hidden activations and of the operands.
// mma_stacks.hpp defines these functions, and each H has its own source file: they take as long to compile as
// all other float32 kernels.

template <class Launcher, class H>
void mma_stack_forward(Context&, const StackUnit<float>* units, int count, View<const float> x, H* acts,
                       View<float> h);
template <class Launcher, class H>
void mma_stack_backward(Context&, const StackUnit<float>* units, int count, View<const float> x,
                        const H* acts, View<const float> dh, View<float> dx);

/// A device's float32 products, with chains by Launcher::Mma and single convolutions by DeviceProducts.
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

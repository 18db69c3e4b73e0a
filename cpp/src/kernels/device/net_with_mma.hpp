#pragma once

#include "kernels/bf16.hpp"
#include "kernels/device/convolutions.hpp"

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

/// Float32, with chains by Launcher::Mma.
template <class Launcher>
class DeviceNetWithMma : public DeviceConvolutions<Launcher, float> {
 public:
  void stack_forward(Context& ctx, const StackUnit<float>* units, int count, bool bf16, View<const float> x,
                     void* acts, View<float> h) const override {
    if (bf16) {
      mma_stack_forward<Launcher>(ctx, units, count, x, static_cast<Bf16*>(acts), h);
    } else {
      mma_stack_forward<Launcher>(ctx, units, count, x, static_cast<float*>(acts), h);
    }
  }

  void stack_backward(Context& ctx, const StackUnit<float>* units, int count, bool bf16, View<const float> x,
                      const void* acts, View<const float> h, View<float> dh, View<float> dx) const override {
    this->last_epilogue_backward(ctx, units[count - 1], h, dh);
    if (bf16) {
      mma_stack_backward<Launcher>(ctx, units, count, x, static_cast<const Bf16*>(acts), dh, dx);
    } else {
      mma_stack_backward<Launcher>(ctx, units, count, x, static_cast<const float*>(acts), dh, dx);
    }
  }
};

}  // namespace evenflow

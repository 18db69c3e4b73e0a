#pragma once

#include "kernels/cpu/exec.hpp"
#include "kernels/cpu/gemm/stack_backward.hpp"
#include "kernels/cpu/gemm/stack_forward.hpp"
#include "kernels/net/launch.hpp"

namespace evenflow {

/// Products are packed and cache-blocked, and a chain of convolutions is one kernel.
template <class Isa, class T>
class CpuNet : public NetLaunch<CpuExec<Isa>, T> {
 public:
  static constexpr const char* name = Isa::name;

  void conv_forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                    const Epilogue<T>& epilogue, View<T> y) const override {
    gemm::conv_forward<Isa, T, false, T, T>(ctx, dims, gemm::strided_of(x), w, epilogue, gemm::strided_of(y));
  }

  void conv_backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                          bool accumulate) const override {
    const gemm::Strided<const T> from = gemm::strided_of(dy);
    if (accumulate) {
      gemm::conv_backward_data<Isa, T, false, T>(ctx, dims, from, w, gemm::AddTo<T>{dx.data, dx.stride});
    } else {
      gemm::conv_backward_data<Isa, T, false, T>(ctx, dims, from, w,
                                                 gemm::ActivateTo<T, T>{gemm::strided_of(dx)});
    }
  }

  void conv_backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy,
                             T* dw) const override {
    gemm::conv_backward_weights<Isa, T, false, T, T>(ctx, dims, gemm::strided_of(x), gemm::strided_of(dy),
                                                     dw);
  }

  void stack_forward(Context& ctx, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                     void* acts, View<T> h) const override {
    if constexpr (std::is_same<T, float>::value) {
      if (bf16) return gemm::stack_forward<Isa>(ctx, units, count, x, static_cast<Bf16*>(acts), h);
    }
    gemm::stack_forward<Isa>(ctx, units, count, x, static_cast<T*>(acts), h);
  }

  void stack_backward(Context& ctx, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                      const void* acts, View<const T> h, View<T> dh, View<T> dx) const override {
    this->last_epilogue_backward(ctx, units[count - 1], h, dh);
    const View<const T> da = dh;
    if constexpr (std::is_same<T, float>::value) {
      if (bf16)
        return gemm::stack_backward<Isa>(ctx, units, count, x, static_cast<const Bf16*>(acts), da, dx);
    }
    gemm::stack_backward<Isa>(ctx, units, count, x, static_cast<const T*>(acts), da, dx);
  }
};

}  // namespace evenflow

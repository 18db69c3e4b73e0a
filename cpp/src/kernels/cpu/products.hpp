#pragma once

#include "kernels/cpu/gemm/stack_backward.hpp"
#include "kernels/cpu/gemm/stack_forward.hpp"

namespace evenflow {

/// The CPU's products for NetLaunch: packed and cache-blocked, with a chain of convolutions as one kernel.
template <class Isa, class T>
struct CpuProducts {
  static constexpr const char* name = Isa::name;

  static void forward(Context& ctx, const ConvDims& dims, View<const T> x, const T* w,
                      const Epilogue<T>& epilogue, View<T> y) {
    gemm::conv_forward<Isa, T, false, T, T>(ctx, dims, gemm::strided_of(x), w, epilogue, gemm::strided_of(y));
  }

  static void backward_data(Context& ctx, const ConvDims& dims, View<const T> dy, const T* w, View<T> dx,
                            bool accumulate) {
    const gemm::Strided<const T> from = gemm::strided_of(dy);
    if (accumulate) {
      gemm::conv_backward_data<Isa, T, false, T>(ctx, dims, from, w, gemm::AddTo<T>{dx.data, dx.stride});
    } else {
      gemm::conv_backward_data<Isa, T, false, T>(ctx, dims, from, w,
                                                 gemm::Activate<T, T>{gemm::strided_of(dx)});
    }
  }

  static void backward_weights(Context& ctx, const ConvDims& dims, View<const T> x, View<const T> dy, T* dw) {
    gemm::conv_backward_weights<Isa, T, false, T, T>(ctx, dims, gemm::strided_of(x), gemm::strided_of(dy),
                                                     dw);
  }

  template <class H>
  static void stack_forward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts,
                            View<T> h) {
    gemm::StackForward<Isa, T, H>(ctx, units, count, x, acts, h).run();
  }

  template <class H>
  static void stack_backward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x,
                             const H* acts, View<const T> dh, View<T> dx) {
    gemm::StackBackward<Isa, T, H>(ctx, units, count, x, acts, dh, dx).run();
  }
};

}  // namespace evenflow

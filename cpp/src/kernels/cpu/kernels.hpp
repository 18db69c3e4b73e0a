#pragma once

#include "kernels/bf16.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

// Each in its own translation unit, compiled for that instruction set.
const KernelSet<float>& kernels_baseline_f32();
const KernelSet<double>& kernels_baseline_f64();
const KernelSet<float>& kernels_avx2_f32();
const KernelSet<double>& kernels_avx2_f64();
const KernelSet<float>& kernels_avx512_f32();
const KernelSet<double>& kernels_avx512_f64();

/// Chains of convolutions with bfloat16 products, for instruction sets that add nothing else. The signatures
/// are those of NetKernels, except that `dh` has already passed the last epilogue.
struct Bf16Stacks {
  template <class H>
  struct Calls {
    void (*forward)(Context&, const StackUnit<float>* units, int count, View<const float> x, H* acts,
                    View<float> h) = nullptr;
    void (*backward)(Context&, const StackUnit<float>* units, int count, View<const float> x, const H* acts,
                     View<const float> dh, View<float> dx) = nullptr;
  };
  const char* isa;
  Calls<Bf16> bf16;
  Calls<float> split_f32;  ///< null where float32's own instructions are faster
};

const Bf16Stacks& stacks_avx512_bf16();
const Bf16Stacks& stacks_amx();

/// kernels_avx512_f32 with these chains.
const KernelSet<float>& kernels_avx512_bf16_f32();
const KernelSet<float>& kernels_amx_f32();

}  // namespace evenflow

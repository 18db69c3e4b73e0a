#pragma once

#include "kernels/bf16.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

// One translation unit each, compiled for that instruction set.
const KernelSet<float>& kernels_baseline_f32();
const KernelSet<double>& kernels_baseline_f64();
const KernelSet<float>& kernels_avx2_f32();
const KernelSet<double>& kernels_avx2_f64();
const KernelSet<float>& kernels_avx512_f32();
const KernelSet<double>& kernels_avx512_f64();

/// Chains of bfloat16 products, which are all that some instructions are good for: `acts` of KernelSet's
/// stack_forward and stack_backward as bfloat16 numbers, the last epilogue taken back already.
struct HalfStacks {
  const char* isa;
  void (*forward)(Context&, const StackUnit<float>* units, int count, View<const float> x, Bf16* acts,
                  View<float> h);
  void (*backward)(Context&, const StackUnit<float>* units, int count, View<const float> x, const Bf16* acts,
                   View<const float> dh, View<float> dx);
};

const HalfStacks& stacks_avx512_bf16();
const HalfStacks& stacks_amx();

/// kernels_avx512_f32 with these chains.
const KernelSet<float>& kernels_avx512_bf16_f32();
const KernelSet<float>& kernels_amx_f32();

}  // namespace evenflow

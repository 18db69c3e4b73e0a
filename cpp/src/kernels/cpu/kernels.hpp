#pragma once

#include "kernels/kernel_set.hpp"

namespace evenflow {

// One translation unit each, compiled for that instruction set.
const KernelSet<float>& kernels_baseline_f32();
const KernelSet<double>& kernels_baseline_f64();
const KernelSet<float>& kernels_avx2_f32();
const KernelSet<double>& kernels_avx2_f64();
const KernelSet<float>& kernels_avx512_f32();
const KernelSet<double>& kernels_avx512_f64();
const KernelSet<float>& kernels_avx512_bf16_f32();

}  // namespace evenflow

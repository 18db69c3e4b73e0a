#include "kernels/cpu/kernels.hpp"

namespace evenflow {

IsaLevel best_isa(IsaLevel) {
  return IsaLevel::baseline;
}

template <>
const KernelSet<float>& cpu_kernels<float>(IsaLevel) {
  return kernels_baseline_f32();
}

template <>
const KernelSet<double>& cpu_kernels<double>(IsaLevel) {
  return kernels_baseline_f64();
}

}  // namespace evenflow

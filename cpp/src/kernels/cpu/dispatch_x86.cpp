#include "kernels/cpu/kernels.hpp"

namespace evenflow {

IsaLevel best_isa(IsaLevel wanted) {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (wanted == IsaLevel::avx512 && avx512) return IsaLevel::avx512;
  if (wanted != IsaLevel::baseline && avx2) return IsaLevel::avx2;
  return IsaLevel::baseline;
}

template <>
const KernelSet<float>& cpu_kernels<float>(IsaLevel level) {
  switch (level) {
    case IsaLevel::avx512:
      return kernels_avx512_f32();
    case IsaLevel::avx2:
      return kernels_avx2_f32();
    default:
      return kernels_baseline_f32();
  }
}

template <>
const KernelSet<double>& cpu_kernels<double>(IsaLevel level) {
  switch (level) {
    case IsaLevel::avx512:
      return kernels_avx512_f64();
    case IsaLevel::avx2:
      return kernels_avx2_f64();
    default:
      return kernels_baseline_f64();
  }
}

}  // namespace evenflow

#include "kernels/cpu/kernels.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow {

const KernelSet<float>& kernels_avx512_f32() {
  static const KernelSetImpl<CpuExec<Avx512>, Avx512, float> kernels;
  return kernels;
}

const KernelSet<double>& kernels_avx512_f64() {
  static const KernelSetImpl<CpuExec<Avx512>, Avx512, double> kernels;
  return kernels;
}

}  // namespace evenflow

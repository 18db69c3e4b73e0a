#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow {

const KernelSet<float>& kernels_avx512_f32() {
  static const KernelSetImpl<CpuExec<Avx512>, CpuProducts<Avx512, float>, float> kernels;
  return kernels;
}

const KernelSet<double>& kernels_avx512_f64() {
  static const KernelSetImpl<CpuExec<Avx512>, CpuProducts<Avx512, double>, double> kernels;
  return kernels;
}

}  // namespace evenflow

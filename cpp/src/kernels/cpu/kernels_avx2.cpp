#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/launch.hpp"

namespace evenflow {

const KernelSet<float>& kernels_avx2_f32() {
  return kernel_set_of<CpuExec<Avx2>, CpuProducts<Avx2, float>, float>();
}

const KernelSet<double>& kernels_avx2_f64() {
  return kernel_set_of<CpuExec<Avx2>, CpuProducts<Avx2, double>, double>();
}

}  // namespace evenflow

#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow {

const KernelSet<float>& kernels_avx2_f32() {
  return kernel_set_of<CpuNet<Avx2, float>>();
}

const KernelSet<double>& kernels_avx2_f64() {
  return kernel_set_of<CpuNet<Avx2, double>>();
}

}  // namespace evenflow

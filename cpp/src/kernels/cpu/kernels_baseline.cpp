#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/launch.hpp"

namespace evenflow {

const KernelSet<float>& kernels_baseline_f32() {
  return kernel_set_of<CpuExec<Baseline>, CpuProducts<Baseline, float>, float>();
}

const KernelSet<double>& kernels_baseline_f64() {
  return kernel_set_of<CpuExec<Baseline>, CpuProducts<Baseline, double>, double>();
}

}  // namespace evenflow

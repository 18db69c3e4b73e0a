#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow {

const KernelSet<float>& kernels_baseline_f32() {
  static const KernelSetImpl<CpuExec<Baseline>, CpuProducts<Baseline, float>, float> kernels;
  return kernels;
}

const KernelSet<double>& kernels_baseline_f64() {
  static const KernelSetImpl<CpuExec<Baseline>, CpuProducts<Baseline, double>, double> kernels;
  return kernels;
}

}  // namespace evenflow

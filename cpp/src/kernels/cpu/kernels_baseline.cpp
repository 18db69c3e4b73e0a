#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow {

const KernelSet<float>& kernels_baseline_f32() {
  return kernel_set_of<CpuNet<Baseline, float>>();
}

const KernelSet<double>& kernels_baseline_f64() {
  return kernel_set_of<CpuNet<Baseline, double>>();
}

}  // namespace evenflow

#include "kernels/cuda/launch.cuh"
#include "kernels/device/flow_kernels.hpp"
#include "kernels/device/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow::cuda {

const KernelSet<double>& kernels_f64() {
  static const KernelSetImpl<DeviceExec<Launcher>, DeviceProducts<Launcher, double>, double> kernels;
  return kernels;
}

const FlowKernels<double>& flow_kernels_f64() {
  static const DeviceFlows<Launcher, double> kernels;
  return kernels;
}

}  // namespace evenflow::cuda

#include "kernels/cuda/launch.cuh"
#include "kernels/device/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow::cuda {

const KernelSet<double>& kernels_f64() {
  static const KernelSetImpl<DeviceExec<Launcher>, DeviceProducts<Launcher, double>, double> kernels;
  return kernels;
}

}  // namespace evenflow::cuda

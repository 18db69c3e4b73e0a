#include "kernels/cuda/launch.cuh"
#include "kernels/device/products.hpp"
#include "kernels/launch.hpp"

namespace evenflow::cuda {

const KernelSet<double>& kernels_f64() {
  return kernel_set_of<DeviceExec<Launcher>, DeviceProducts<Launcher, double>, double>();
}

}  // namespace evenflow::cuda

#include "kernels/cuda/launch.cuh"
#include "kernels/device/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow::cuda {

const KernelSet<double>& kernels_f64() {
  return kernel_set_of<DeviceNet<Launcher, double>>();
}

}  // namespace evenflow::cuda

#include "kernels/cuda/launch.cuh"
#include "kernels/device/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow::cuda {

const KernelSet<float>& kernels_f32() {
  return kernel_set_of<DeviceNet<Launcher, float>>();
}

}  // namespace evenflow::cuda

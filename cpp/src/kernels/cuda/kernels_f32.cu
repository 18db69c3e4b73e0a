#include "kernels/cuda/launch.cuh"
#include "kernels/device/net_with_mma.hpp"
#include "kernels/launch.hpp"

namespace evenflow::cuda {

const KernelSet<float>& kernels_f32() {
  return kernel_set_of<DeviceNetWithMma<Launcher>>();
}

}  // namespace evenflow::cuda

#include "kernels/cuda/launch.cuh"
#include "kernels/device/matrix_products.hpp"
#include "kernels/launch.hpp"

namespace evenflow::cuda {

const KernelSet<float>& kernels_f32() {
  return kernel_set_of<DeviceExec<Launcher>, MatrixProducts<Launcher>, float>();
}

}  // namespace evenflow::cuda

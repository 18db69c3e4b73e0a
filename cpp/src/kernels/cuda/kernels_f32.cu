#include "kernels/cuda/launch.cuh"
#include "kernels/device/matrix_products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow::cuda {

const KernelSet<float>& kernels_f32() {
  static const KernelSetImpl<DeviceExec<Launcher>, MatrixProducts<Launcher>, float> kernels;
  return kernels;
}

}  // namespace evenflow::cuda

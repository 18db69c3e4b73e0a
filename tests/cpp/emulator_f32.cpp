#include "emulator.hpp"
#include "kernels/device/matrix_products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow::test {

const KernelSet<float>& emulated_kernels_f32() {
  static const KernelSetImpl<DeviceExec<EmulatedLauncher>, MatrixProducts<EmulatedLauncher>, float> kernels;
  return kernels;
}

}  // namespace evenflow::test

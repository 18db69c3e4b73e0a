#include "emulator.hpp"
#include "kernels/device/matrix_products.hpp"
#include "kernels/launch.hpp"

namespace evenflow::test {

const KernelSet<float>& emulated_kernels_f32() {
  return kernel_set_of<DeviceExec<EmulatedLauncher>, MatrixProducts<EmulatedLauncher>, float>();
}

}  // namespace evenflow::test

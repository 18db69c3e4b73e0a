#include "emulator.hpp"
#include "kernels/device/products.hpp"
#include "kernels/launch.hpp"

namespace evenflow::test {

const KernelSet<double>& emulated_kernels_f64() {
  return kernel_set_of<DeviceExec<EmulatedLauncher>, DeviceProducts<EmulatedLauncher, double>, double>();
}

}  // namespace evenflow::test

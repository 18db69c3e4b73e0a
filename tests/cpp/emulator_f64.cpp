#include "emulator.hpp"
#include "kernels/device/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow::test {

const KernelSet<double>& emulated_kernels_f64() {
  return kernel_set_of<DeviceNet<EmulatedLauncher, double>>();
}

}  // namespace evenflow::test

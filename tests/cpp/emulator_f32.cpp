#include "emulator.hpp"
#include "kernels/device/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow::test {

const KernelSet<float>& emulated_kernels_f32() {
  return kernel_set_of<DeviceNet<EmulatedLauncher, float>>();
}

}  // namespace evenflow::test

#include "emulator.hpp"
#include "kernels/device/net_with_mma.hpp"
#include "kernels/launch.hpp"

namespace evenflow::test {

const KernelSet<float>& emulated_kernels_f32() {
  return kernel_set_of<DeviceNetWithMma<EmulatedLauncher>>();
}

}  // namespace evenflow::test

#include "emulator.hpp"
#include "kernels/device/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow::test {

const KernelSet<double>& emulated_kernels_f64() {
  static const KernelSetImpl<DeviceExec<EmulatedLauncher>, DeviceProducts<EmulatedLauncher, double>, double>
      kernels;
  return kernels;
}

}  // namespace evenflow::test

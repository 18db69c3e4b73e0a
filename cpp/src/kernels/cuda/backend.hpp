#pragma once

namespace evenflow {

/// Throws DeviceError unless this build and this machine can run on a CUDA device.
void require_cuda();

}  // namespace evenflow

#pragma once

#include <cuda_runtime.h>

#include "evenflow/error.hpp"

namespace evenflow::cuda {

/// Throws DeviceError with the runtime's text unless `status` is success.
inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail<DeviceError>(call, "expected success, got ", cudaGetErrorString(status));
}

/// After every launch.
inline void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

}  // namespace evenflow::cuda

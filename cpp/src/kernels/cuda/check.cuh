#pragma once

#include <cuda_runtime.h>

#include "evenflow/error.hpp"

namespace evenflow::cuda {

/// Throws DeviceError with the runtime's text unless `status` is success.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear the error, unless it is sticky
  fail<DeviceError>("cuda", "expected ", call, " to succeed, got ", cudaGetErrorString(status));
}

}  // namespace evenflow::cuda

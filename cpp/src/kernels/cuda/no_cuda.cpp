#include "evenflow/error.hpp"
#include "kernels/cuda/backend.hpp"

namespace evenflow {

void require_cuda() {
  fail<DeviceError>("context", "expected a build with CUDA for device cuda, got a CPU-only build");
}

}  // namespace evenflow

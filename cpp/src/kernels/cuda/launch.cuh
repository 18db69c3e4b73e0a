#pragma once

#include <functional>

#include "kernels/cuda/device.cuh"
#include "kernels/device/body.hpp"

namespace evenflow::cuda {

/// Runs the phases of a body with a barrier after each; kernels/device/body.hpp states what a body may rely
/// on.
template <class Body>
__global__ void __launch_bounds__(Body::threads) run_body(const Body body) {
  __shared__ typename Body::Shared shared;
  const device::Place at{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x)};
  const int64_t phases = body.phases(at.block);
  for (int64_t phase = 0; phase < phases; ++phase) {
    body.run(phase, at, shared);
    if (phase + 1 < phases) __syncthreads();
  }
}

/// Launches on the context's stream.
struct Launcher {
  static constexpr const char* name = "cuda";
  static constexpr int64_t max_blocks = 65535;
  static constexpr int64_t patch_values = int64_t{1} << 24;

  template <class Body>
  static void launch(Context& ctx, int64_t blocks, const Body& body) {
    constexpr int64_t kMost = 2147483647;  // limit of a grid's first dimension
    if (blocks > kMost) fail<DeviceError>("cuda", "expected at most ", kMost, " blocks, got ", blocks);
    run_body<<<static_cast<unsigned>(blocks), Body::threads, 0, stream_of(ctx)>>>(body);
    check(cudaGetLastError(), "a kernel's launch");
  }

  static void* stream(Context& ctx) { return stream_of(ctx); }
  static void run(const std::function<void()>& multiply) { multiply(); }
};

}  // namespace evenflow::cuda

#pragma once

#include <type_traits>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/tensor_cores.cuh"
#include "kernels/device/body.hpp"

namespace evenflow::cuda {

/// Whether a body names its stages.
template <class Body, class = void>
constexpr bool has_stages = false;
template <class Body>
constexpr bool has_stages<Body, std::void_t<decltype(Body::kInner)>> = true;

template <int which, class Body>
__device__ void run_ends(const Body& body, const device::Place& at, typename Body::Registers& registers,
                         typename Body::Shared& shared) {
  if constexpr (which < Body::kEnds) {
    __syncthreads();
    body.template end<which>(at, registers, shared);
    run_ends<which + 1>(body, at, registers, shared);
  }
}

/// Runs the phases of a body with a barrier after each; kernels/device/body.hpp states what a body may rely
/// on.
template <class Body>
__global__ void __launch_bounds__(Body::threads) run_body(const Body body) {
  __shared__ typename Body::Shared shared;
  typename Body::Registers registers;
  const device::Place at{blockIdx.x, gridDim.x, static_cast<int>(threadIdx.x)};
  if constexpr (has_stages<Body>) {
    const int steps = body.steps(at.block);
    body.begin(at, registers, shared);
    for (int number = 0; number < steps; ++number) {
      __syncthreads();
      body.template step<0>(number, steps, at, registers, shared);
      if constexpr (Body::kInner == 2) {
        __syncthreads();
        body.template step<1>(number, steps, at, registers, shared);
      }
    }
    run_ends<0>(body, at, registers, shared);
  } else {
    const int64_t phases = body.phases(at.block);
    for (int64_t phase = 0; phase < phases; ++phase) {
      body.run(phase, at, registers, shared);
      if (phase + 1 < phases) __syncthreads();
    }
  }
}

/// Launches on the context's stream.
struct Launcher {
  static constexpr const char* name = "cuda";
  static constexpr int64_t max_blocks = 65535;
  static constexpr int64_t multiprocessors = 132;  // of an H100; results must not depend on the actual GPU
  using Mma = TensorCores;

  template <class Body>
  static void launch(Context& ctx, int64_t blocks, const Body& body) {
    constexpr int64_t kMost = 2147483647;  // limit of a grid's first dimension
    if (blocks > kMost) fail<DeviceError>("cuda", "expected at most ", kMost, " blocks, got ", blocks);
    run_body<<<static_cast<unsigned>(blocks), Body::threads, 0, stream_of(ctx)>>>(body);
    check(cudaGetLastError(), "a kernel's launch");
  }
};

}  // namespace evenflow::cuda

#pragma once

#include <cuda_runtime.h>

#include "core/device.hpp"
#include "evenflow/context.hpp"
#include "evenflow/error.hpp"

namespace evenflow::cuda {

/// Throws DeviceError with the runtime's text unless `status` is success.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear the error, unless it is sticky
  fail<DeviceError>("cuda", "expected ", call, " to succeed, got ", cudaGetErrorString(status));
}

// One translation unit per type, so they compile in parallel.
const KernelSet<float>& kernels_f32();
const KernelSet<double>& kernels_f64();

/// A stream of the process's GPU, and memory allocated in stream order.
class CudaDevice final : public Device {
 public:
  /// Throws DeviceError unless there is a driver and a suitable GPU.
  CudaDevice();
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  /// The stream, for the calling thread. Also selects its GPU.
  cudaStream_t stream() const;

  const char* name() const override { return "cuda"; }
  int id() const override;
  uintptr_t handle() const override { return reinterpret_cast<uintptr_t>(stream_); }
  void* allocate(size_t bytes) override;
  void release(void* memory) noexcept override;
  int64_t free_memory() const override;
  void to_device(void* to, const void* from, size_t bytes) override;
  void to_host(void* to, const void* from, size_t bytes) override;
  void synchronize() override;
  void follow(Device& other) override;
  bool wait_for_all() noexcept override;
  const KernelSet<float>& kernels_f32() const override { return cuda::kernels_f32(); }
  const KernelSet<double>& kernels_f64() const override { return cuda::kernels_f64(); }

 private:
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  bool reads_pageable_ = false;  ///< the GPU can read pageable host memory
};

inline cudaStream_t stream_of(Context& ctx) {
  return static_cast<CudaDevice*>(ctx.device())->stream();
}

}  // namespace evenflow::cuda

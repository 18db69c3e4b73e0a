#pragma once

#include <cuda_runtime.h>

#include "core/device.hpp"
#include "evenflow/context.hpp"

namespace evenflow::cuda {

// One unit for each type: they compile side by side.
const KernelSet<float>& kernels_f32();
const KernelSet<double>& kernels_f64();

/// A stream of the first GPU, and memory in the stream's order.
class CudaDevice final : public Device {
 public:
  /// DeviceError unless there is a driver and a GPU that fits.
  CudaDevice();
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  cudaStream_t stream() const { return stream_; }

  const char* name() const override { return "cuda"; }
  void* allocate(size_t bytes) override;
  void release(void* memory) noexcept override;
  int64_t free_memory() const override;
  void to_device(void* to, const void* from, size_t bytes) override;
  void to_host(void* to, const void* from, size_t bytes) override;
  void synchronize() override;
  const KernelSet<float>& kernels_f32() const override { return cuda::kernels_f32(); }
  const KernelSet<double>& kernels_f64() const override { return cuda::kernels_f64(); }

 private:
  cudaStream_t stream_ = nullptr;
};

inline cudaStream_t stream_of(Context& ctx) {
  return static_cast<CudaDevice*>(ctx.device())->stream();
}

}  // namespace evenflow::cuda

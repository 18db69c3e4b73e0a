#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <type_traits>

#include "core/device.hpp"
#include "core/repeats.hpp"
#include "evenflow/context.hpp"

namespace evenflow::cuda {

// One translation unit per type, so they compile in parallel.
const KernelSet<float>& kernels_f32();
const KernelSet<double>& kernels_f64();

/// Selects the process's GPU for the calling thread: the first that the driver shows, unless choose_gpu()
/// took another. Throws DeviceError that says what is missing.
void require_gpu();
/// Takes the GPU of a rank. Must precede the first use of any GPU.
void choose_gpu(int local_rank);

/// Selects the process's GPU for the calling thread and restores the previous one at the end. For calls that
/// may come from any thread, including those of other libraries.
class OnGpu {
 public:
  OnGpu() noexcept;
  ~OnGpu() { cudaSetDevice(before_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_ = 0;
};

// Members of a backend that ranks need.
void prepare_rank(int local_rank);
void make_id(char* id);
Collective* join(const char* id, int rank, int size);

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
  void repeat(const std::vector<uint64_t>& key, const std::function<void()>& f) override;
  const KernelSet<float>& kernels_f32() const override { return cuda::kernels_f32(); }
  const KernelSet<double>& kernels_f64() const override { return cuda::kernels_f64(); }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy>;
  struct Recorder;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  bool reads_pageable_ = false;  ///< the GPU can read pageable host memory
  Repeats<Graph> repeats_;
};

inline cudaStream_t stream_of(Context& ctx) {
  return static_cast<CudaDevice*>(ctx.device())->stream();
}

}  // namespace evenflow::cuda

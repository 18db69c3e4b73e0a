#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <type_traits>

#include "core/device.hpp"
#include "core/repeats.hpp"
#include "evenflow/context.hpp"

namespace evenflow::cuda {

// One unit for each type: they compile side by side.
const KernelSet<float>& kernels_f32();
const KernelSet<double>& kernels_f64();

/// Makes the process's GPU the calling thread's: the first that the driver shows, unless choose_gpu() took
/// another. DeviceError that says what is missing.
void require_gpu();
/// Takes the GPU of a rank before the first use of any.
void choose_gpu(int local_rank);

/// The process's GPU as the calling thread's, which afterwards has its own again: of calls that may come from
/// any thread, another library's too.
class OnGpu {
 public:
  OnGpu() noexcept;
  ~OnGpu() { cudaSetDevice(before_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_ = 0;
};

// The members of a backend that ranks need.
void prepare_rank(int local_rank);
void make_id(char* id);
Collective* join(const char* id, int rank, int size);

/// A stream of the process's GPU, and memory in the stream's order.
class CudaDevice final : public Device {
 public:
  /// DeviceError unless there is a driver and a GPU that fits.
  CudaDevice();
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  /// For the calling thread to use, whose GPU is the stream's from now on.
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
  bool reads_pageable_ = false;  ///< the GPU reads the program's memory by itself
  Repeats<Graph> repeats_;
};

inline cudaStream_t stream_of(Context& ctx) {
  return static_cast<CudaDevice*>(ctx.device())->stream();
}

}  // namespace evenflow::cuda

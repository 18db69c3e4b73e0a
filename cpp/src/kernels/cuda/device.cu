#include <atomic>
#include <mutex>
#include <shared_mutex>

#include "evenflow/version.h"
#include "kernels/cuda/check.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/event.cuh"
#include "kernels/cuda/nccl.hpp"

// The backend's memory, copies and entry point. A process uses one GPU.

namespace evenflow::cuda {
namespace {

constexpr int kNone = -1;
std::atomic<int> chosen{kNone};  ///< the process's GPU
std::shared_mutex recording;     ///< a whole-device wait is not allowed while a stream records
constexpr int kLeastMajor = 8;   ///< least compute capability that the kernels are compiled for

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, chosen), "a query of the GPU");
  return value;
}

/// Number of GPUs that the driver shows, at least one.
int count_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    int driver = 0;
    cudaDriverGetVersion(&driver);  // 0 if none is installed
    fail<DeviceError>("context", "expected an NVIDIA GPU and its driver for device cuda, got ",
                      driver == 0             ? "no driver"
                      : status == cudaSuccess ? "no GPU"
                                              : cudaGetErrorString(status));
  }
  return count;
}

/// Threads start with the first GPU, and other libraries may have switched to another.
void use_gpu() {
  check(cudaSetDevice(chosen), "a choice of the GPU");
}

Device* open() {
  return new CudaDevice;
}

/// Managed memory that stays on the GPU while the host does not touch it.
void* allocate_shared(size_t bytes) {
  require_gpu();
  void* memory = nullptr;
  check(cudaMallocManaged(&memory, bytes ? bytes : 1), "an allocation of shared memory");
#if CUDART_VERSION >= 13000
  const cudaMemLocation place{cudaMemLocationTypeDevice, chosen};
#else
  const int place = chosen;
#endif
  check(cudaMemAdvise(memory, bytes ? bytes : 1, cudaMemAdviseSetPreferredLocation, place),
        "advice on shared memory");
  return memory;
}

void release_shared(void* memory) {
  const OnGpu here;
  cudaFree(memory);
}

}  // namespace

OnGpu::OnGpu() noexcept : before_(chosen) {
  cudaGetDevice(&before_);
  cudaSetDevice(chosen);
}

void require_gpu() {
  count_gpus();
  int none = kNone;
  chosen.compare_exchange_strong(none, 0);
  use_gpu();
  const int major = attribute(cudaDevAttrComputeCapabilityMajor);
  if (major < kLeastMajor) {
    fail<DeviceError>("context", "expected a GPU of compute capability ", kLeastMajor, ".0 or later, got ",
                      major, ".", attribute(cudaDevAttrComputeCapabilityMinor));
  }
  if (!attribute(cudaDevAttrMemoryPoolsSupported) || !attribute(cudaDevAttrConcurrentManagedAccess)) {
    fail<DeviceError>("context",
                      "expected a GPU with memory pools and concurrent managed memory, got one "
                      "without; a virtual GPU and WSL may lack them");
  }
}

void choose_gpu(int local_rank) {
  const int wanted = gpu_of_rank(local_rank, count_gpus());
  int before = kNone;
  if (!chosen.compare_exchange_strong(before, wanted) && before != wanted) {
    fail<DeviceError>("nccl", "expected rank ", local_rank, " of this machine to take GPU ", wanted,
                      " before its first use of one, got GPU ", before, " in use");
  }
  require_gpu();
}

CudaDevice::CudaDevice() {
  require_gpu();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  // Keep freed memory in the pool: the next step asks for the same sizes.
  uint64_t all = UINT64_MAX;
  check(cudaDeviceGetDefaultMemPool(&pool_, chosen), "the memory pool");
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &all), "the memory pool");
  reads_pageable_ = attribute(cudaDevAttrPageableMemoryAccess);
}

CudaDevice::~CudaDevice() {
  const OnGpu here;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

cudaStream_t CudaDevice::stream() const {
  use_gpu();
  return stream_;
}

int CudaDevice::id() const {
  return chosen;
}

void* CudaDevice::allocate(size_t bytes) {
  repeats_.interrupt();
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, bytes, stream()), "an allocation");
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  repeats_.interrupt_quietly();
  const OnGpu here;
  cudaFreeAsync(memory, stream_);
}

int64_t CudaDevice::free_memory() const {
  size_t free = 0, total = 0;
  use_gpu();
  check(cudaMemGetInfo(&free, &total), "a query of the memory");
  // The pool's reserve of freed memory counts as free.
  uint64_t reserved = 0, used = 0;
  check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved), "the memory pool");
  check(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used), "the memory pool");
  return static_cast<int64_t>(free + (reserved - used));
}

void CudaDevice::to_device(void* to, const void* from, size_t bytes) {
  repeats_.interrupt();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()), "a copy to the GPU");
  // The runtime stages pageable memory before the call returns, but only where the GPU can't read it
  // directly.
  if (reads_pageable_) check(cudaStreamSynchronize(stream_), "a copy to the GPU");
}

void CudaDevice::to_host(void* to, const void* from, size_t bytes) {
  repeats_.interrupt();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "a copy from the GPU");
  synchronize();
}

void CudaDevice::synchronize() {
  repeats_.interrupt();
  check(cudaStreamSynchronize(stream()), "the work before");
}

void CudaDevice::follow(Device& other) {
  repeats_.interrupt();
  const cudaStream_t earlier = static_cast<CudaDevice&>(other).stream();  // selects the GPU, too
  Event().order(earlier, stream_);
}

bool CudaDevice::wait_for_all() noexcept {
  const std::unique_lock<std::shared_mutex> lock(recording);
  const OnGpu here;                                          // other libraries call this through a deleter
  const bool done = cudaDeviceSynchronize() == cudaSuccess;  // fails while another library records a graph
  cudaGetLastError();  // a failed kernel is reported where its results are needed
  return done;
}

/// Records a stream's kernels as a CUDA graph.
struct CudaDevice::Recorder {
  cudaStream_t stream;
  std::shared_lock<std::shared_mutex> lock{recording, std::defer_lock};
  void begin() {
    lock.lock();
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "the start of a graph");
  }
  std::optional<Graph> end() {
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t graph = nullptr;
    const bool ended = cudaStreamEndCapture(stream, &recorded) == cudaSuccess;
    lock.unlock();
    const bool made = ended && cudaGraphInstantiate(&graph, recorded, 0) == cudaSuccess;
    if (recorded) cudaGraphDestroy(recorded);
    if (made) return Graph(graph);
    cudaGetLastError();  // the caller then queues the pass kernel by kernel, which reports the error
    return std::nullopt;
  }
  void abandon() {
    cudaGraph_t recorded = nullptr;
    cudaStreamEndCapture(stream, &recorded);
    lock.unlock();
    if (recorded) cudaGraphDestroy(recorded);
    cudaGetLastError();  // of the invalidated capture
  }
  void launch(const Graph& graph) const { check(cudaGraphLaunch(graph.get(), stream), "a graph's launch"); }
};

void CudaDevice::repeat(const std::vector<uint64_t>& key, const std::function<void()>& f) {
  Recorder recorder{stream(), {recording, std::defer_lock}};
  repeats_.run(recorder, key, f);
}

}  // namespace evenflow::cuda

/// Entry point of the library. A caller with another ABI reads only the first members.
extern "C" __attribute__((visibility("default"))) const evenflow::Backend* evenflow_cuda_backend(int) {
  using namespace evenflow::cuda;
  static const evenflow::Backend backend{
      evenflow::Backend::kAbi, EVENFLOW_VERSION, "cuda",   &open, &allocate_shared,
      &release_shared,         &prepare_rank,    &make_id, &join};
  return &backend;
}

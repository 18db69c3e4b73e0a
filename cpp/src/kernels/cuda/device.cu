#include "evenflow/version.h"
#include "kernels/cuda/device.cuh"

// The backend's memory, copies and entry point. A process uses one GPU, the first that the driver shows.

namespace evenflow::cuda {
namespace {

constexpr int kGpu = 0;         ///< the process's GPU
constexpr int kLeastMajor = 8;  ///< least compute capability that the kernels are compiled for

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, kGpu), "a query of the GPU");
  return value;
}

/// Threads start with the first GPU, and other libraries may have switched to another.
void use_gpu() {
  check(cudaSetDevice(kGpu), "a choice of the GPU");
}

/// Selects the GPU for the calling thread. Throws DeviceError that says what is missing.
void require_gpu() {
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

/// Selects the process's GPU for the calling thread and restores the previous one at the end. For calls that
/// may come from any thread, including those of other libraries.
class OnGpu {
 public:
  OnGpu() noexcept {
    cudaGetDevice(&before_);
    cudaSetDevice(kGpu);
  }
  ~OnGpu() { cudaSetDevice(before_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_ = kGpu;
};

Device* open() {
  return new CudaDevice;
}

/// Managed memory that stays on the GPU while the host does not touch it.
void* allocate_shared(size_t bytes) {
  require_gpu();
  void* memory = nullptr;
  check(cudaMallocManaged(&memory, bytes ? bytes : 1), "an allocation of shared memory");
#if CUDART_VERSION >= 13000
  const cudaMemLocation place{cudaMemLocationTypeDevice, kGpu};
#else
  const int place = kGpu;
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

CudaDevice::CudaDevice() {
  require_gpu();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  // Keep freed memory in the pool: the next step asks for the same sizes.
  uint64_t all = UINT64_MAX;
  check(cudaDeviceGetDefaultMemPool(&pool_, kGpu), "the memory pool");
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
  return kGpu;
}

void* CudaDevice::allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, bytes, stream()), "an allocation");
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
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
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()), "a copy to the GPU");
  // The runtime stages pageable memory before the call returns, but only where the GPU can't read it
  // directly.
  if (reads_pageable_) check(cudaStreamSynchronize(stream_), "a copy to the GPU");
}

void CudaDevice::to_host(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "a copy from the GPU");
  synchronize();
}

void CudaDevice::synchronize() {
  check(cudaStreamSynchronize(stream()), "the work before");
}

void CudaDevice::follow(Device& other) {
  const cudaStream_t earlier = static_cast<CudaDevice&>(other).stream();  // selects the GPU, too
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  cudaError_t status = cudaEventRecord(event, earlier);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(stream_, event, 0);
  cudaEventDestroy(event);  // the wait stays queued
  check(status, "a wait for another stream");
}

bool CudaDevice::wait_for_all() noexcept {
  const OnGpu here;                                          // other libraries call this through a deleter
  const bool done = cudaDeviceSynchronize() == cudaSuccess;  // fails while another library records a graph
  cudaGetLastError();  // a failed kernel is reported where its results are needed
  return done;
}

}  // namespace evenflow::cuda

/// Entry point of the library. A caller with another ABI reads only the first members.
extern "C" __attribute__((visibility("default"))) const evenflow::Backend* evenflow_cuda_backend(int) {
  using namespace evenflow::cuda;
  static const evenflow::Backend backend{evenflow::Backend::kAbi, EVENFLOW_VERSION, "cuda", &open,
                                         &allocate_shared,        &release_shared};
  return &backend;
}

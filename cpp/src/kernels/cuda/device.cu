#include "evenflow/version.h"
#include "kernels/cuda/check.cuh"
#include "kernels/cuda/device.cuh"

// The backend's memory, copies and entry point. One GPU, the first that the driver shows:
// CUDA_VISIBLE_DEVICES chooses another.

namespace evenflow::cuda {
namespace {

constexpr int kDevice = 0;
constexpr int kLeastMajor = 8;  ///< compute capability: what the kernels are compiled for

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, kDevice), "a query of the GPU");
  return value;
}

/// Makes kDevice the calling thread's device. DeviceError that says what is missing.
void require_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    int driver = 0;
    cudaDriverGetVersion(&driver);  // 0: none is installed
    fail<DeviceError>("context", "expected an NVIDIA GPU and its driver for device cuda, got ",
                      driver == 0             ? "no driver"
                      : status == cudaSuccess ? "no GPU"
                                              : cudaGetErrorString(status));
  }
  check(cudaSetDevice(kDevice), "a choice of the GPU");
  const int major = attribute(cudaDevAttrComputeCapabilityMajor);
  if (major < kLeastMajor) {
    fail<DeviceError>("context", "expected a GPU of compute capability ", kLeastMajor, ".0 or later, got ",
                      major, ".", attribute(cudaDevAttrComputeCapabilityMinor));
  }
  if (!attribute(cudaDevAttrMemoryPoolsSupported) || !attribute(cudaDevAttrConcurrentManagedAccess)) {
    fail<DeviceError>("context",
                      "expected a GPU with memory pools and concurrent managed memory, got one "
                      "without; a virtual GPU may lack them");
  }
}

Device* open() {
  return new CudaDevice;
}

/// Managed memory, kept on the GPU while the program leaves it alone.
void* allocate_shared(size_t bytes) {
  require_gpu();
  void* memory = nullptr;
  check(cudaMallocManaged(&memory, bytes ? bytes : 1), "an allocation of shared memory");
#if CUDART_VERSION >= 13000
  const cudaMemLocation place{cudaMemLocationTypeDevice, kDevice};
#else
  const int place = kDevice;
#endif
  check(cudaMemAdvise(memory, bytes ? bytes : 1, cudaMemAdviseSetPreferredLocation, place),
        "advice on shared memory");
  return memory;
}

void release_shared(void* memory) {
  cudaFree(memory);
}

}  // namespace

CudaDevice::CudaDevice() {
  require_gpu();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  // Freed memory stays in the pool: the next step asks for the same sizes.
  cudaMemPool_t pool;
  uint64_t all = UINT64_MAX;
  check(cudaDeviceGetDefaultMemPool(&pool, kDevice), "the memory pool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "the memory pool");
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void* CudaDevice::allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, bytes, stream_), "an allocation");
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  cudaFreeAsync(memory, stream_);
}

int64_t CudaDevice::free_memory() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "a query of the memory");
  return static_cast<int64_t>(free);
}

void CudaDevice::to_device(void* to, const void* from, size_t bytes) {
  // The runtime has read pageable memory when the call returns.
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "a copy to the GPU");
}

void CudaDevice::to_host(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "a copy from the GPU");
  synchronize();
}

void CudaDevice::synchronize() {
  check(cudaStreamSynchronize(stream_), "the work before");
}

}  // namespace evenflow::cuda

/// The library's way in; a caller of another ABI reads no further than the first members.
extern "C" __attribute__((visibility("default"))) const evenflow::Backend* evenflow_cuda_backend(int) {
  using namespace evenflow::cuda;
  static const evenflow::Backend backend{evenflow::Backend::kAbi, EVENFLOW_VERSION, "cuda", &open,
                                         &allocate_shared,        &release_shared};
  return &backend;
}

#include <cuda_runtime.h>

#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <unordered_map>

#include "block.hpp"

// What libevenflow_cuda.so calls of CUDA's runtime, over the PTX that it brings: one GPU, whose streams do
// nothing before somebody waits for them, so that whoever does not wait where that is needed finds old
// numbers.

namespace evenflow::ptx {
namespace {

using Work = std::function<void()>;
using Graph = std::vector<Work>;

struct Stream {
  std::deque<Work> queue;
  size_t queued = 0, done = 0;
  bool records = false, spoilt = false;
  Graph recorded;
};
struct Event {
  Stream* stream = nullptr;
  size_t position = 0;
};

struct Gpu {
  std::recursive_mutex mutex;
  Memory memory;
  Program program;
  std::unordered_map<const void*, std::string> kernels;  ///< by the program's function
  std::set<Stream*> streams;
  cudaError_t last = cudaSuccess;
  uint32_t launches = 0;

  static Gpu& get() {
    static Gpu* gpu = new Gpu;  // for ever: what is destroyed late asks for it
    return *gpu;
  }
  cudaError_t note(cudaError_t status) {
    if (status != cudaSuccess) last = status;
    return status;
  }
};

void finish(Stream& stream, size_t position) {
  while (stream.done < position) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    ++stream.done;
    work();
  }
}
void finish(Stream& stream) {
  finish(stream, stream.queued);
}

void queue(Stream& stream, Work work) {
  if (stream.records) {
    stream.recorded.push_back(std::move(work));
  } else {
    stream.queue.push_back(std::move(work));
    ++stream.queued;
  }
}

Stream& of(cudaStream_t stream) {
  if (!stream) give_up("expected a stream of ours, got the one that is everybody's");
  return *reinterpret_cast<Stream*>(stream);
}

/// f(the GPU, the stream) in turn; an error, and a spoilt recording, if the stream is recorded.
template <class F>
cudaError_t outside_recording(cudaStream_t stream, const F& f) {
  Gpu& gpu = Gpu::get();
  const std::lock_guard<std::recursive_mutex> lock(gpu.mutex);
  if (of(stream).records) {
    of(stream).spoilt = true;
    return gpu.note(cudaErrorStreamCaptureUnsupported);
  }
  f(gpu, of(stream));
  return cudaSuccess;
}

void check_copy(Gpu& gpu, const void* at, size_t bytes, bool writes) {
  if (const char* why = gpu.memory.touch(at, bytes, writes, nullptr)) {
    give_up(std::string("expected memory for a copy ") + (writes ? "to" : "from") + " the GPU, but " + why);
  }
}

}  // namespace
}  // namespace evenflow::ptx

using namespace evenflow::ptx;

extern "C" {

// What nvcc's own code calls. A binary of PTX alone, not compressed: texts that end with a zero.

void** __cudaRegisterFatBinary(void* wrapper) {
  struct Wrapper {
    int magic, version;
    const char* data;
  };
  struct Header {
    uint32_t magic;
    uint16_t version, size;
    uint64_t bytes;
  };
  const char* data = static_cast<Wrapper*>(wrapper)->data;
  Header header;
  std::memcpy(&header, data, sizeof header);
  const std::string_view all(data, header.size + header.bytes);
  const size_t begin = all.find("\n.version ");  // none: a unit without kernels
  if (begin != std::string_view::npos)
    Gpu::get().program.add(all.substr(begin, all.find('\0', begin) - begin));
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  Gpu::get().kernels[function] = name;
}

static thread_local struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  Gpu& gpu = Gpu::get();
  const std::lock_guard<std::recursive_mutex> lock(gpu.mutex);
  const bool flat = grid.y == 1 && grid.z == 1 && block.y == 1 && block.z == 1 && shared == 0;
  if (!flat) give_up("expected blocks and threads in a row, without more shared memory, got others");
  if (grid.x == 0 || block.x == 0 || block.x > 1024) return gpu.note(cudaErrorInvalidConfiguration);
  const Kernel& kernel = gpu.program.kernel(gpu.kernels.at(function));
  const char* first = static_cast<char*>(arguments[0]);
  queue(of(stream), [&gpu, &kernel, grid, block,
                     parameters = std::vector<char>(first, first + kernel.parameters)] {
    Launch launch(kernel, gpu.memory, parameters.data(), grid.x, static_cast<int>(block.x), ++gpu.launches);
    for (int64_t b = int64_t{grid.x} - 1; b >= 0; --b) launch.run(b);
  });
  return cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
#endif

// The GPU.

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrComputeCapabilityMajor                                               ? 8
           : which == cudaDevAttrComputeCapabilityMinor || which == cudaDevAttrPageableMemoryAccess ? 0
                                                                                                    : 1;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return "an error of the interpreter";
}
cudaError_t cudaGetLastError() {
  return std::exchange(Gpu::get().last, cudaSuccess);
}

// Memory.

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = reinterpret_cast<cudaMemPool_t>(&Gpu::get().memory);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = Gpu::get().memory.used();
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = size_t{1} << 32;
  *free = *total - Gpu::get().memory.used();
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return Gpu::get().note(cudaErrorInvalidValue);
  return outside_recording(stream, [&](Gpu& gpu, Stream&) { *memory = gpu.memory.allocate(bytes, false); });
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return outside_recording(
      stream, [&](Gpu& gpu, Stream& s) { queue(s, [&gpu, memory] { gpu.memory.release(memory); }); });
}
cudaError_t cudaMallocManaged(void** memory, size_t bytes, unsigned) {
  const std::lock_guard<std::recursive_mutex> lock(Gpu::get().mutex);
  *memory = Gpu::get().memory.allocate(bytes, true);
  return cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, cudaMemLocation) {
  return cudaSuccess;
}
#else
cudaError_t cudaMemAdvise(const void*, size_t, cudaMemoryAdvise, int) {
  return cudaSuccess;
}
#endif
cudaError_t cudaDeviceSynchronize() {
  Gpu& gpu = Gpu::get();
  const std::lock_guard<std::recursive_mutex> lock(gpu.mutex);
  for (Stream* stream : gpu.streams) {
    if (!stream->records) continue;
    stream->spoilt = true;
    return gpu.note(cudaErrorStreamCaptureUnsupported);
  }
  for (Stream* stream : gpu.streams) finish(*stream);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const cudaError_t status = cudaDeviceSynchronize();
  if (status == cudaSuccess && memory) Gpu::get().memory.release(memory);
  return status;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return outside_recording(stream, [&](Gpu& gpu, Stream& s) {
    if (kind == cudaMemcpyDeviceToHost) {
      return queue(s, [&gpu, to, from, bytes] {
        check_copy(gpu, from, bytes, false);
        std::memcpy(to, from, bytes);
      });
    }
    if (kind != cudaMemcpyHostToDevice)
      give_up("expected a copy to or from the program's memory, got another");
    const char* first = static_cast<const char*>(from);
    queue(s, [&gpu, to, staged = std::vector<char>(first, first + bytes)] {
      check_copy(gpu, to, staged.size(), true);
      std::memcpy(to, staged.data(), staged.size());
    });
  });
}

// Streams, events and graphs.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard<std::recursive_mutex> lock(Gpu::get().mutex);
  Stream* made = new Stream;
  Gpu::get().streams.insert(made);
  *stream = reinterpret_cast<cudaStream_t>(made);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return outside_recording(stream, [](Gpu&, Stream& s) { finish(s); });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return outside_recording(stream, [](Gpu& gpu, Stream& s) {
    finish(s);
    gpu.streams.erase(&s);  // not deleted: events may name it
  });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return outside_recording(stream,
                           [&](Gpu&, Stream& s) { *reinterpret_cast<Event*>(event) = {&s, s.queued}; });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return outside_recording(stream, [&](Gpu&, Stream& s) {
    queue(s, [recorded = *reinterpret_cast<Event*>(event)] { finish(*recorded.stream, recorded.position); });
  });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return outside_recording(stream, [](Gpu&, Stream& s) {
    s.records = true;
    s.spoilt = false;
    s.recorded.clear();
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard<std::recursive_mutex> lock(Gpu::get().mutex);
  Stream& s = of(stream);
  s.records = false;
  *graph = s.spoilt ? nullptr : reinterpret_cast<cudaGraph_t>(new Graph(std::move(s.recorded)));
  return Gpu::get().note(s.spoilt ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  return outside_recording(stream, [&](Gpu&, Stream& s) {
    for (const Work& work : *reinterpret_cast<Graph*>(graph)) queue(s, work);
  });
}

}  // extern "C"

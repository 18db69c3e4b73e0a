#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace evenflow {

template <class T>
struct KernelSet;

/// An ordered queue of kernels and copies on a device, and its memory. A context owns one.
///
/// Pointers by convention: arrays of layers, conditioners and kernels lie on the context's device, and the
/// program does not follow them; labels, configurations and StackUnit lists are the program's.
class Device {
 public:
  virtual ~Device() = default;
  virtual const char* name() const = 0;
  /// Which of the machine's devices it is, and the queue's handle, a CUDA stream, as other libraries know
  /// them.
  virtual int id() const = 0;
  virtual uintptr_t handle() const = 0;

  /// Memory for the kernels of this queue and of those that follow it, aligned to 64 bytes, in the order of
  /// the queue.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Whether every array shall be an allocation of its own, so that a kernel that leaves one is seen.
  virtual bool separate_arrays() const { return false; }
  /// Free memory [bytes].
  virtual int64_t free_memory() const = 0;

  /// In the order of the queue. The source is read before the call returns.
  virtual void to_device(void* to, const void* from, size_t bytes) = 0;
  /// Waits for the queue, and for the copy.
  virtual void to_host(void* to, const void* from, size_t bytes) = 0;
  virtual void synchronize() = 0;
  /// What is queued from now on waits for what is queued on `other`, of the same backend, so far.
  virtual void follow(Device& other) = 0;
  /// Waits for all that the device has to do, whoever queued it. False where that can't be waited for now.
  virtual bool wait_for_all() noexcept = 0;

  /// Queues what f queues. If f did nothing else when it was last called with this key, no copy, no wait, no
  /// allocation, it is recorded, and from then on queued at once without being called. So the key has to hold
  /// all that the arguments of f's kernels depend on, and f has to bear being called twice.
  virtual void repeat(const std::vector<uint64_t>& key, const std::function<void()>& f) = 0;

  virtual const KernelSet<float>& kernels_f32() const = 0;
  virtual const KernelSet<double>& kernels_f64() const = 0;
};

/// The ranks of a job, each a process with a device of its own: sums over all of them in the devices' memory.
/// Every rank calls in the same order. DeviceError where the ranks' library reports one, its own or another
/// rank's.
class Collective {
 public:
  virtual ~Collective() = default;

  /// Adds up `from` over all ranks into `to`, which may be the same array: after the kernels queued on
  /// `after` so far, beside those queued later. Both stay where they are until finish().
  virtual void start(Device& after, const float* from, float* to, int64_t count) = 0;
  virtual void start(Device& after, const double* from, double* to, int64_t count) = 0;
  /// Whether all sums started are complete. Does not wait, so that the program can tell when a rank is gone.
  virtual bool done() = 0;
  /// Kernels queued on the device from now on wait for all sums started; the program does not.
  virtual void finish(Device& device) = 0;
};

/// What a backend's shared object hands over. The first three members never change their place.
struct Backend {
  /// Of this struct, Device, Collective, KernelSet, Context and the structs in their signatures.
  static constexpr int kAbi = 13;

  int abi = kAbi;
  const char* version = nullptr;  ///< of the library that it was built with
  const char* name = nullptr;     ///< "cuda"
  /// DeviceError where there is no usable device.
  Device* (*open)() = nullptr;
  /// Memory that the program may touch too, while no kernel runs: parameters, gradients, moments.
  void* (*allocate_shared)(size_t bytes) = nullptr;
  void (*release_shared)(void* memory) = nullptr;

  /// Makes this process the local_rank-th of a job on its machine: it takes the GPU of that number, before
  /// the first use of any. DeviceError where there is none, and where the ranks' library is missing.
  void (*prepare_rank)(int local_rank) = nullptr;
  static constexpr int kIdBytes = 128;
  /// An id by which the ranks of a job find each other: one of them makes it (kIdBytes), and hands it round.
  void (*make_id)(char* id) = nullptr;
  /// Waits for all ranks.
  Collective* (*join)(const char* id, int rank, int size) = nullptr;
};

/// The backend of a device's name; null for "cpu". DeviceError for a name that nothing answers to, and where
/// the backend's library or what it needs is missing.
const Backend* find_backend(const char* name);

/// Makes another name known, for tests.
void install_backend(const Backend* backend);

}  // namespace evenflow

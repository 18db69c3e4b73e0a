#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace evenflow {

template <class T>
class KernelSet;

/// An ordered queue of kernels and copies on a device, and its memory. A context owns one.
///
/// Pointers by convention: arrays of layers, conditioners and kernels lie on the context's device, and the
/// program does not follow them; labels, configurations and StackUnit lists are the program's.
class Device {
 public:
  virtual ~Device() = default;
  virtual const char* name() const = 0;

  /// Memory for this queue's kernels alone, aligned to 64 bytes, in the order of the queue.
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

  virtual const KernelSet<float>& kernels_f32() const = 0;
  virtual const KernelSet<double>& kernels_f64() const = 0;
};

/// What a backend's shared object hands over. The first three members never change their place.
struct Backend {
  /// Of this struct, Device, KernelSet, Context and the structs in their signatures.
  static constexpr int kAbi = 1;

  int abi = kAbi;
  const char* version = nullptr;  ///< of the library that it was built with
  const char* name = nullptr;     ///< "cuda"
  /// DeviceError where there is no usable device.
  Device* (*open)() = nullptr;
  /// Memory that the program may touch too, while no kernel runs: parameters, gradients, moments.
  void* (*allocate_shared)(size_t bytes) = nullptr;
  void (*release_shared)(void* memory) = nullptr;
};

/// The backend of a device's name; null for "cpu". DeviceError for a name that nothing answers to, and where
/// the backend's library or what it needs is missing.
const Backend* find_backend(const char* name);

/// Makes another name known, for tests.
void install_backend(const Backend* backend);

}  // namespace evenflow

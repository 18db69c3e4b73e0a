#pragma once

#include <cstddef>
#include <cstdint>

#include "evenflow/export.h"

namespace evenflow {

template <class T>
struct KernelSet;

/// An ordered queue of kernels and copies on a device, and its memory. A context owns one.
///
/// Pointers follow a convention: arrays of layers, conditioners and kernels are in device memory, and host
/// code does not dereference them; labels, configurations and StackUnit lists are in host memory.
class Device {
 public:
  virtual ~Device() = default;
  virtual const char* name() const = 0;
  /// The device's number on this machine and the queue's handle (a CUDA stream), for other libraries.
  virtual int id() const = 0;
  virtual uintptr_t handle() const = 0;

  /// Memory for kernels of this queue and of queues that follow() it, aligned to 64 bytes. Allocation and
  /// release take effect in the order of the queue.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Whether every array needs its own allocation, so that tests detect a kernel that writes outside one.
  virtual bool separate_arrays() const { return false; }
  /// Free memory [bytes].
  virtual int64_t free_memory() const = 0;

  /// Copies in the order of the queue. The source is read before the call returns.
  virtual void to_device(void* to, const void* from, size_t bytes) = 0;
  /// Copies in the order of the queue, and waits until the copy is complete.
  virtual void to_host(void* to, const void* from, size_t bytes) = 0;
  virtual void synchronize() = 0;
  /// Makes everything queued from now on wait for what is queued on `other` so far. Both must be of the same
  /// backend.
  virtual void follow(Device& other) = 0;
  /// Waits for all work of the device, from any queue. Returns false if it cannot wait now.
  virtual bool wait_for_all() noexcept = 0;

  virtual const KernelSet<float>& kernels_f32() const = 0;
  virtual const KernelSet<double>& kernels_f64() const = 0;
};

/// The interface that a backend's shared object provides. The first three members never move, so that any
/// version can read them.
struct Backend {
  /// Version of the binary interface: this struct, Device, KernelSet, Context and the structs in their
  /// signatures.
  static constexpr int kAbi = 14;

  int abi = kAbi;
  const char* version = nullptr;  ///< version of the library that it was built with
  const char* name = nullptr;     ///< "cuda"
  /// DeviceError if there is no usable device.
  Device* (*open)() = nullptr;
  /// Memory that the program may access too while no kernel runs: for parameters, gradients and moments.
  void* (*allocate_shared)(size_t bytes) = nullptr;
  void (*release_shared)(void* memory) = nullptr;
};

/// The backend for a device name; null for "cpu". DeviceError for an unknown name, and if the backend's
/// library or one of its dependencies is missing.
EVENFLOW_API const Backend* find_backend(const char* name);

/// Registers a backend under its name, for tests.
void install_backend(const Backend* backend);

}  // namespace evenflow

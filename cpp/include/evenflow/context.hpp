#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "evenflow/export.h"

namespace evenflow {

template <class T>
struct KernelSet;
class Device;

/// A stack of scratch memory. `release(mark)` frees everything taken after that mark. Blocks never move. When
/// the stack is empty they are merged into one, so a repeated call allocates nothing.
class EVENFLOW_API Workspace {
 public:
  struct Mark {
    size_t block = 0;
    size_t used = 0;
  };

  Workspace() = default;
  /// Allocates from the device from now on. Must be called before the first take().
  void use(Device* device) { device_ = device; }
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Uninitialised memory, aligned to 64 bytes.
  void* take(size_t bytes);
  // Members that kernels call are either always inlined or never. Otherwise each instruction set would
  // compile its own copy, and the linker would keep one of them for all.
  [[gnu::always_inline]] Mark mark() const { return {block_, used_}; }
  [[gnu::always_inline]] void release(Mark mark) {
    block_ = mark.block;
    used_ = mark.used;
    if (device_ || (block_ == 0 && used_ == 0)) tidy();
  }

  /// Bytes allocated, in use or not.
  size_t capacity() const;
  /// Bytes allocated but not in use.
  size_t unused() const;

 private:
  struct Block {
    char* data;
    size_t size;
  };
  void tidy();
  void add_block(size_t size);
  void drop_blocks(size_t keep);

  Device* device_ = nullptr;
  std::vector<Block> blocks_;
  size_t block_ = 0;
  size_t used_ = 0;
};

/// Sums over the processes (ranks) that share a batch. Each rank computes its own rows.
class EVENFLOW_API Ranks {
 public:
  virtual ~Ranks();
  /// Replaces values (count) with their sum over all ranks, with the same bits on each. All ranks must make
  /// the same calls in the same order.
  virtual void sum(double* values, int64_t count) = 0;
};

/// How a GPU multiplies float32 numbers in chains of convolutions and dense layers. highest: as float32.
/// high: as TF32, which rounds the factors to 11 significant bits. Neither other arithmetic nor a CPU depends
/// on it.
enum class MatmulPrecision { highest, high };

/// Largest number of threads of a context.
constexpr int kMostThreads = 1024;

/// The device, threads, scratch memory and kernels that a computation uses. A context serves one call at a
/// time; contexts are independent of each other.
class EVENFLOW_API Context {
 public:
  /// device: "cpu" or "cuda". threads: at most kMostThreads (ConfigError); 0 takes OMP_NUM_THREADS, or as
  /// many as the process has processors, by its affinity and its container's quota. The environment variable
  /// EVENFLOW_ISA (baseline, avx2, avx512, avx512_bf16, amx) lowers the instruction set used.
  explicit Context(const std::string& device = "cpu", int threads = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// "cpu", or the name of the device that holds every call's arrays.
  const char* device_name() const;
  bool on_host() const { return !device_; }
  /// Null on the CPU.
  Device* device() const { return device_.get(); }

  /// Number of threads that a call may use. It takes fewer if the system refuses some, and only its own while
  /// another call of the process uses them.
  int threads() const { return threads_; }
  /// Scratch memory for kernels, on the device.
  [[gnu::always_inline]] Workspace& workspace() { return workspace_; }
  /// Scratch memory in host memory. On the CPU it is workspace().
  Workspace& host_workspace() { return device_ ? host_workspace_ : workspace_; }

  /// Copy bytes between host and device, in order with the kernels queued before and after. `to_host` waits
  /// for the copy; `to_device` reads its source before it returns. On the CPU both are plain copies.
  void to_device(void* to, const void* from, size_t bytes);
  void to_host(void* to, const void* from, size_t bytes);
  /// Waits for the device. Only after this may the program read or write an arena on the device.
  void synchronize();

  template <class T>
  const KernelSet<T>& kernels() const;

  /// The instruction set that the kernels use: "baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon".
  const char* isa() const;

  MatmulPrecision matmul_precision() const { return matmul_precision_; }
  void set_matmul_precision(MatmulPrecision precision) { matmul_precision_ = precision; }

  /// The ranks that share the batch, or null. With ranks, batch moments cover all ranks' rows. Not owned.
  Ranks* ranks() const { return ranks_; }
  void set_ranks(Ranks* ranks) { ranks_ = ranks; }

  /// Number of the call's first sample in error texts. It is not 0 if the call is a block of a larger one.
  int64_t first_row() const { return first_row_; }
  void set_first_row(int64_t row) { first_row_ = row; }

  /// Makes a single-thread child context for each of `count` parallel threads.
  void prepare_children(int count);
  Context& child(int rank) { return *children_[static_cast<size_t>(rank)]; }

 private:
  friend class ContextUse;
  /// A context of one thread with the same kernels.
  struct Child {};
  EVENFLOW_LOCAL Context(const Context& parent, Child);

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  int threads_;
  std::unique_ptr<Device> device_;  // outlives the workspace
  Workspace workspace_;
  Workspace host_workspace_;
  const KernelSet<float>* kernels_f32_;
  const KernelSet<double>* kernels_f64_;
  std::vector<std::unique_ptr<Context>> children_;
  Ranks* ranks_ = nullptr;
  int64_t first_row_ = 0;
  MatmulPrecision matmul_precision_ = MatmulPrecision::highest;
};

template <>
EVENFLOW_API const KernelSet<float>& Context::kernels<float>() const;
template <>
EVENFLOW_API const KernelSet<double>& Context::kernels<double>() const;

/// Sets a context's ranks (or null) and restores the previous ones at the end of the scope.
class RanksScope {
 public:
  RanksScope(Context& ctx, Ranks* ranks) : ctx_(ctx), before_(ctx.ranks()) { ctx.set_ranks(ranks); }
  ~RanksScope() { ctx_.set_ranks(before_); }
  RanksScope(const RanksScope&) = delete;
  RanksScope& operator=(const RanksScope&) = delete;

 private:
  Context& ctx_;
  Ranks* before_;
};

/// Sets a context's first row and restores the previous one at the end of the scope.
class RowsScope {
 public:
  RowsScope(Context& ctx, int64_t first) : ctx_(ctx), before_(ctx.first_row()) { ctx.set_first_row(first); }
  ~RowsScope() { ctx_.set_first_row(before_); }
  RowsScope(const RowsScope&) = delete;
  RowsScope& operator=(const RowsScope&) = delete;

 private:
  Context& ctx_;
  int64_t before_;
};

/// Releases at its end everything taken from a workspace during the scope.
class WorkspaceScope {
 public:
  [[gnu::always_inline]] explicit WorkspaceScope(Context& ctx) : WorkspaceScope(ctx.workspace()) {}
  [[gnu::always_inline]] explicit WorkspaceScope(Workspace& workspace)
      : workspace_(workspace), mark_(workspace_.mark()) {}
  [[gnu::always_inline]] ~WorkspaceScope() { workspace_.release(mark_); }
  WorkspaceScope(const WorkspaceScope&) = delete;
  WorkspaceScope& operator=(const WorkspaceScope&) = delete;

  template <class T>
  [[gnu::always_inline]] T* take(int64_t count) {
    return static_cast<T*>(workspace_.take(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  Workspace& workspace_;
  Workspace::Mark mark_;
};

/// Host scratch memory, and copies of small arrays between host and device. On the CPU nothing is copied:
/// both are the same memory.
class HostScope {
 public:
  explicit HostScope(Context& ctx) : ctx_(ctx), host_(ctx.host_workspace()), device_(ctx) {}

  /// Host memory for `count` values.
  template <class T>
  T* take(int64_t count) {
    return host_.take<T>(count);
  }
  /// Makes `count` device values readable on the host.
  template <class T>
  const T* read(const T* values, int64_t count) {
    if (ctx_.on_host()) return values;
    T* copy = host_.take<T>(count);
    ctx_.to_host(copy, values, static_cast<size_t>(count) * sizeof(T));
    return copy;
  }
  /// Makes `count` host values readable by kernels; null stays null.
  template <class T>
  const T* send(const T* values, int64_t count) {
    if (ctx_.on_host() || !values) return values;
    T* copy = device_.take<T>(count);
    ctx_.to_device(copy, values, static_cast<size_t>(count) * sizeof(T));
    return copy;
  }

 private:
  Context& ctx_;
  WorkspaceScope host_;
  WorkspaceScope device_;
};

}  // namespace evenflow

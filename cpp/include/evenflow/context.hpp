#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evenflow/export.h"

namespace evenflow {

template <class T>
struct KernelSet;
class Device;

/// A stack of scratch memory: what was taken after a mark is given back at once by `release(mark)`.
/// Blocks never move; when the stack is empty again they are merged into one, so that a repeated call
/// allocates nothing.
class EVENFLOW_API Workspace {
 public:
  struct Mark {
    size_t block = 0;
    size_t used = 0;
  };

  Workspace() = default;
  /// From now on memory comes from the device; nothing may have been taken yet.
  void use(Device* device) { device_ = device; }
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Uninitialised memory, aligned to 64 bytes.
  void* take(size_t bytes);
  // What kernels call of this class is inlined always, or never: else each instruction set would compile it,
  // and the linker keep one of them for all.
  [[gnu::always_inline]] Mark mark() const { return {block_, used_}; }
  [[gnu::always_inline]] void release(Mark mark) {
    block_ = mark.block;
    used_ = mark.used;
    if (device_ || (block_ == 0 && used_ == 0)) tidy();
  }

  /// Bytes held now, used or not.
  size_t capacity() const;
  /// Of these, bytes that nobody has taken.
  size_t unused() const;

 private:
  struct Block {
    char* data;
    size_t size;
  };
  friend class Context;
  void tidy();
  void add_block(size_t size);
  void drop_blocks(size_t keep);

  Device* device_ = nullptr;
  std::vector<Block> blocks_;
  size_t block_ = 0;
  size_t used_ = 0;
};

/// Processes that compute one batch together, each with its share of the rows: what one of them shows to the
/// others.
class EVENFLOW_API Ranks {
 public:
  virtual ~Ranks();
  /// Adds to values (count) those of all other ranks; the same bits on each. Every rank calls in the same
  /// order.
  virtual void sum(double* values, int64_t count) = 0;
};

/// How a device's matrix units multiply float32 numbers, which they take apart into bfloat16 ones. highest:
/// three each, as exact as float32 itself. high: two, for half the products; errors are those of numbers with
/// 16 significant bits. Nothing else depends on it.
enum class MatmulPrecision { highest, high };

/// The most threads of a context: where the system has no more, OpenMP ends the process.
constexpr int kMostThreads = 1024;

/// Where a computation runs: device, threads, scratch memory and the kernels of this machine.
/// One context serves one call at a time; contexts are independent of each other.
class EVENFLOW_API Context {
 public:
  /// device: "cpu" or "cuda". threads: at most kMostThreads (ConfigError); 0 takes the OpenMP default.
  /// The environment variable EVENFLOW_ISA (baseline, avx2, avx512, avx512_bf16, amx) lowers the instruction
  /// set used.
  explicit Context(const std::string& device = "cpu", int threads = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// "cpu", or the name of the device that every array of a call lies on.
  const char* device_name() const;
  bool on_host() const { return !device_; }
  /// Null on the CPU.
  Device* device() const { return device_.get(); }

  /// Threads that a call may use: one in the child of a process that had made a context of several, and had
  /// other threads at the fork.
  int threads() const;
  /// Scratch memory for kernels: the device's.
  [[gnu::always_inline]] Workspace& workspace() { return workspace_; }
  /// Scratch memory for the program itself; the same one on the CPU.
  Workspace& host_workspace() { return device_ ? host_workspace_ : workspace_; }

  /// Copies bytes between the program and the device, in the order of the kernels around the call. `to_host`
  /// waits for them; `to_device` reads its source before it returns. On the CPU: plain copies.
  void to_device(void* to, const void* from, size_t bytes);
  void to_host(void* to, const void* from, size_t bytes);
  /// Waits for the device. Before it, memory of an arena on the device may not be touched by the program.
  void synchronize();
  /// Calls f, which queues kernels. A device may record them, and in a later call with the same key queue the
  /// recorded ones at once without calling f; but only if the workspace, the precision, and whether there are
  /// ranks, are as they were then. The key holds what else the kernels' arguments depend on.
  void repeat(std::vector<uint64_t> key, const std::function<void()>& f);

  template <class T>
  const KernelSet<T>& kernels() const;

  /// The instruction set that the kernels use: "baseline", "avx2", "avx512", "avx512_bf16", "amx", "neon".
  const char* isa() const;

  MatmulPrecision matmul_precision() const { return matmul_precision_; }
  void set_matmul_precision(MatmulPrecision precision) { matmul_precision_ = precision; }

  /// Null, unless a batch is shared: its moments are then those of all ranks' rows. Not owned.
  Ranks* ranks() const { return ranks_; }
  void set_ranks(Ranks* ranks) { ranks_ = ranks; }

  /// What errors call the first sample of a call; not 0 where the call is a block of a larger one.
  int64_t first_row() const { return first_row_; }
  void set_first_row(int64_t row) { first_row_ = row; }

  /// Makes contexts of one thread each for `count` threads that work side by side.
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

/// A context with these ranks, or with none, during the lifetime.
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

/// A context whose errors count samples from this one during the lifetime.
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

/// Gives back everything taken from a workspace during its lifetime.
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

/// Scratch memory of the program, and the way of small arrays between it and the device. On the CPU nothing
/// is copied: both sides are the same memory.
class HostScope {
 public:
  explicit HostScope(Context& ctx) : ctx_(ctx), host_(ctx.host_workspace()), device_(ctx) {}

  /// For the program to write.
  template <class T>
  T* take(int64_t count) {
    return host_.take<T>(count);
  }
  /// `count` values of the device, readable here.
  template <class T>
  const T* read(const T* values, int64_t count) {
    if (ctx_.on_host()) return values;
    T* copy = host_.take<T>(count);
    ctx_.to_host(copy, values, static_cast<size_t>(count) * sizeof(T));
    return copy;
  }
  /// `count` values of the program, where kernels can read them; null stays null.
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

/// Half of the memory that this process may still take, by what the machine has free and by the limits of its
/// control groups: the default bound for kept activations.
EVENFLOW_API int64_t default_activation_budget();

}  // namespace evenflow

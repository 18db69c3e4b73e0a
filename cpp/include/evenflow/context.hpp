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
class KernelSet;

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
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Uninitialised memory, aligned to 64 bytes.
  void* take(size_t bytes);
  Mark mark() const;
  void release(Mark mark);

  /// Bytes held now, used or not.
  size_t capacity() const;

 private:
  struct Block {
    char* data;
    size_t size;
  };
  void merge();

  std::vector<Block> blocks_;
  size_t block_ = 0;
  size_t used_ = 0;
};

/// Where a computation runs: device, threads, scratch memory and the kernels of this machine.
/// One context serves one call at a time; contexts are independent of each other.
class EVENFLOW_API Context {
 public:
  /// device: "cpu" or "cuda". threads: 0 takes the OpenMP default.
  /// The environment variable EVENFLOW_ISA (baseline, avx2, avx512) lowers the instruction set used.
  explicit Context(const std::string& device = "cpu", int threads = 0);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Threads that a call may use: one in the child of a fork.
  int threads() const;
  Workspace& workspace() { return workspace_; }

  template <class T>
  const KernelSet<T>& kernels() const;

  /// The instruction set that the kernels use: "baseline", "avx2" or "avx512".
  const char* isa() const;

  /// Makes contexts of one thread each for `count` threads that work side by side.
  void prepare_children(int count);
  Context& child(int rank) { return *children_[static_cast<size_t>(rank)]; }

 private:
  friend class ContextUse;

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  int threads_;
  Workspace workspace_;
  const KernelSet<float>* kernels_f32_;
  const KernelSet<double>* kernels_f64_;
  std::vector<std::unique_ptr<Context>> children_;
};

template <>
EVENFLOW_API const KernelSet<float>& Context::kernels<float>() const;
template <>
EVENFLOW_API const KernelSet<double>& Context::kernels<double>() const;

/// Gives back everything taken from the workspace during its lifetime.
class WorkspaceScope {
 public:
  explicit WorkspaceScope(Context& ctx) : workspace_(ctx.workspace()), mark_(workspace_.mark()) {}
  ~WorkspaceScope() { workspace_.release(mark_); }
  WorkspaceScope(const WorkspaceScope&) = delete;
  WorkspaceScope& operator=(const WorkspaceScope&) = delete;

  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(workspace_.take(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  Workspace& workspace_;
  Workspace::Mark mark_;
};

/// Half of the memory that the machine has free now: the default bound for kept activations.
EVENFLOW_API int64_t default_activation_budget();

}  // namespace evenflow

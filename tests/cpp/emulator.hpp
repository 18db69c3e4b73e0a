#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <typeinfo>
#include <utility>
#include <vector>

#include "core/device.hpp"
#include "evenflow/context.hpp"
#include "evenflow/error.hpp"
#include "kernels/device/body.hpp"

// A device on the CPU: the kernels' bodies block by block, thread by thread, phase by phase. Its memory is
// closed to the program, as a GPU's is: a layer that follows a device's pointer ends the process, and so does
// a kernel that leaves an array, each of which has a guard page behind it.

namespace evenflow::test {

/// Memory of the emulated device, and which of it may be touched now.
class Emulator {
 public:
  enum Order { ascending, descending, shuffled };

  static Emulator& get();

  /// The order of blocks, and of threads in a phase. Results must not depend on it.
  Order order = ascending;
  const char* name = "emulated";
  bool separate_arrays = true;  ///< whether each array has a guard page
  int64_t launches = 0;
  int64_t before_wait = 0;        ///< launches before the program first waited; set to -1 to be told
  int64_t allocations_left = -1;  ///< until there is no memory; below 0: there is always some
  int64_t live() const { return static_cast<int64_t>(regions_.size()); }

  /// queue: whose kernels, and those of queues that follow it, may use the memory; null: shared memory.
  void* allocate(size_t bytes, const Device* queue);
  void release(void* memory);
  /// What the other queue has allocated so far is `queue`'s too.
  void follow(const Device* queue, const Device* other) { followed_[{queue, other}] = allocations_; }
  void forget(const Device* queue);
  /// To the kernels: everything. To the program: nothing, or after a synchronisation shared memory.
  void open();
  void close();
  void open_shared();
  /// std::logic_error if a kernel's arguments hold what looks like a pointer to the program's memory, or to
  /// that of a queue which this one does not follow.
  void check_arguments(const void* body, size_t bytes, const Device* queue) const;
  void wait() {
    if (before_wait < 0) before_wait = launches;
    open_shared();
  }
  /// `count` blocks or threads in the present order.
  std::vector<int64_t> order_of(int64_t count) const;
  /// Adds the name of a body that has run to the file in EVENFLOW_EMULATED_BODIES, for
  /// tests/package/check_bodies.py.
  static bool note(const char* body);

 private:
  struct Region {
    char* base;
    size_t size;  ///< without the guard page behind
    char* data;
    const Device* queue;  ///< null: shared
    int64_t number;       ///< of allocations before
  };
  const Region* region_of(uintptr_t address) const;
  bool ordered(const Device* queue, const Region& region) const;
  std::vector<Region> regions_;
  int64_t allocations_ = 0;
  std::map<std::pair<const Device*, const Device*>, int64_t> followed_;  ///< allocations at that time
};

/// Memory that ends where no access is allowed: a block's shared memory.
class Guarded {
 public:
  explicit Guarded(size_t bytes);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  void* data() const { return data_; }

 private:
  char* base_;
  size_t size_;  ///< with the guard page
  char* data_;
};

struct EmulatedLauncher {
  static constexpr const char* name = "emulated";
  static constexpr int64_t max_blocks = 3;       // so that small loops stride
  static constexpr int64_t patch_values = 3000;  // so that small batches are divided

  template <class Body>
  static void launch([[maybe_unused]] Context& ctx, int64_t blocks, const Body& body) {
#if __has_builtin(__builtin_clear_padding)  // else what lies in the gaps looks like pointers at times
    Body arguments = body;
    __builtin_clear_padding(&arguments);
    Emulator::get().check_arguments(&arguments, sizeof arguments, ctx.device());
#endif
    run([blocks, &body] { run_blocks(blocks, body); });
    [[maybe_unused]] static const bool noted = Emulator::note(typeid(Body).name());  // once a body
  }

  static void* stream(Context& ctx) { return ctx.device(); }
  static void run(const std::function<void()>& f) {
    ++Emulator::get().launches;
    Emulator::get().open();
    f();
    Emulator::get().close();
  }

 private:
  template <class Body>
  static void run_blocks(int64_t blocks, const Body& body) {
    const Emulator& emulator = Emulator::get();
    // Nothing is initialised on a device; 0xCB makes large negative numbers.
    using Shared = typename Body::Shared;
    const Guarded memory(sizeof(Shared));
    Shared* shared = new (memory.data()) Shared;
    const std::vector<int64_t> threads = emulator.order_of(Body::threads);
    for (const int64_t block : emulator.order_of(blocks)) {
      spoil(*shared);
      for (int64_t phase = 0; phase < body.phases(block); ++phase) {
        for (const int64_t thread : threads) {
          body.run(phase, device::Place{block, blocks, static_cast<int>(thread)}, *shared);
        }
      }
    }
  }

  template <class S>
  static void spoil(S& s) {
    std::memset(static_cast<void*>(&s), 0xCB, sizeof s);
  }
};

// The emulated device's kernels: a file for each type, since they take long to compile.
const KernelSet<float>& emulated_kernels_f32();
const KernelSet<double>& emulated_kernels_f64();

inline constexpr Emulator::Order kOrders[] = {Emulator::ascending, Emulator::descending, Emulator::shuffled};

/// Arrays of one context, of either kind.
class Arrays {
 public:
  explicit Arrays(Context& ctx) : ctx_(ctx), scope_(ctx) {}

  template <class T>
  T* put(const std::vector<T>& values) {
    T* data = scope_.take<T>(static_cast<int64_t>(values.size()));
    if (!values.empty()) ctx_.to_device(data, values.data(), values.size() * sizeof(T));
    return data;
  }
  template <class T>
  T* make(int64_t count, T value = T(-7)) {
    return put(std::vector<T>(static_cast<size_t>(count), value));
  }
  template <class T>
  std::vector<T> get(const T* data, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    if (count) ctx_.to_host(values.data(), data, static_cast<size_t>(count) * sizeof(T));
    return values;
  }

 private:
  Context& ctx_;
  WorkspaceScope scope_;
};

Backend emulated_backend(const char* name);

/// Makes Context("emulated") work.
inline void install_emulator() {
  static const Backend backend = emulated_backend("emulated");
  install_backend(&backend);
}

}  // namespace evenflow::test

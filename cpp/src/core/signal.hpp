#pragma once

#include <atomic>
#include <cstdint>

#if !defined(__linux__)
#include <condition_variable>
#include <mutex>
#endif

namespace evenflow {

/// A count that threads wait for. They spin for a moment and then sleep.
class Signal {
 public:
  uint32_t count() const { return count_.load(std::memory_order_acquire); }

  /// Adds one and wakes the sleepers. A thread that has waited sees what was written before.
  void raise();

  /// Returns when the count is no longer `seen`. spins: other threads that are waited for have processors of
  /// their own.
  void wait(uint32_t seen, bool spins);

 private:
  void sleep(uint32_t seen);
  void wake();

  std::atomic<uint32_t> count_{0}, sleepers_{0};
#if !defined(__linux__)
  std::mutex mutex_;
  std::condition_variable changed_;
#endif
};

}  // namespace evenflow

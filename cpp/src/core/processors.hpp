#pragma once

#include <atomic>
#include <string>

namespace evenflow {

/// Processors that this process may use: those of its affinity, at most as many as the quota of its control
/// groups pays for. root: where /proc and /sys are, for tests.
int usable_processors(const std::string& root = "");

/// Spreads the threads of a team over processors. A scheduler may wake a thread on the processor of the
/// thread that woke it. On some virtual machines both stay there for seconds, at half speed.
class Placement {
 public:
  /// By the thread of rank 0, before the others of its team begin.
  void begin(int size);
  /// Moves the calling thread if one of lower rank runs on the same processor.
  void place(int rank);

 private:
  static constexpr int kMost = 64;
  [[maybe_unused]] std::atomic<int> processor_[kMost] = {};
};

}  // namespace evenflow

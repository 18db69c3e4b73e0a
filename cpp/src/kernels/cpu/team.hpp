#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/ops/host_device.hpp"

namespace evenflow {

/// A thread's place among those that run one kernel together.
struct Team {
  int rank = 0;
  int size = 1;

  EVENFLOW_HD void barrier() const {
    if (size > 1) {
#pragma omp barrier
    }
  }
  /// This thread's share [begin(count), end(count)) of `count` items.
  EVENFLOW_HD int64_t begin(int64_t count) const { return size > 1 ? count * rank / size : 0; }
  EVENFLOW_HD int64_t end(int64_t count) const { return size > 1 ? count * (rank + 1) / size : count; }
};

/// The processors that a team's threads woke up on. A scheduler may wake a sleeping thread beside the one
/// that woke it, and leave both there: on some virtual machines for seconds, at half the speed.
class Seats {
 public:
  Seats();
  /// Moves the calling thread if a thread of lower rank took the same processor.
  void take(int rank);

 private:
  static constexpr int kMax = 64;
  int processor_[kMax];
};

/// f(Team) on `threads` threads. One thread calls f directly: OpenMP would cost more than a small product.
template <class Isa, class F>
void run_team(int threads, const F& f) {
  if (threads <= 1) {
    f(Team());
    return;
  }
  Seats seats;
#pragma omp parallel num_threads(threads)
  {
    const Team team{omp_get_thread_num(), omp_get_num_threads()};
    seats.take(team.rank);
    f(team);
  }
}

}  // namespace evenflow

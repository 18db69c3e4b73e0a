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
  EVENFLOW_HD int64_t begin(int64_t count) const { return count * rank / size; }
  EVENFLOW_HD int64_t end(int64_t count) const { return count * (rank + 1) / size; }
};

/// f(Team) on `threads` threads. One thread calls f directly: OpenMP would cost more than a small product.
template <class Isa, class F>
void run_team(int threads, const F& f) {
  if (threads <= 1) {
    f(Team());
    return;
  }
#pragma omp parallel num_threads(threads)
  f(Team{omp_get_thread_num(), omp_get_num_threads()});
}

}  // namespace evenflow

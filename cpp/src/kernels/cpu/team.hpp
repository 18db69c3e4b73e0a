#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow {

/// A thread's place among those that run one kernel together.
struct Team {
  int rank = 0;
  int size = 1;

  EVENFLOW_INLINE void barrier() const {
    if (size > 1) {
#pragma omp barrier
    }
  }
  /// This thread's share [begin(count), end(count)) of `count` items.
  EVENFLOW_INLINE int64_t begin(int64_t count) const { return size > 1 ? count * rank / size : 0; }
  EVENFLOW_INLINE int64_t end(int64_t count) const { return size > 1 ? count * (rank + 1) / size : count; }
};

/// Items that a team divides while it goes: a thread takes those of its own share a few at a time, then what
/// others have not begun of theirs, so that nobody waits long for one that was kept from working. Which
/// thread has which items must not matter.
class WorkQueue {
 public:
  /// How far a share is, in a cache line of its own.
  struct alignas(64) Progress {
    int64_t item;
  };
  /// next: one a thread.
  EVENFLOW_INLINE WorkQueue(Progress* next, int threads) : progress_(next) {
    for (int t = 0; t < threads; ++t) progress_[t].item = 0;
  }

  /// f(first, end) for `most` of `count` items at a time, fewer at the end of a share that others may help
  /// with. Once, and again after renew().
  template <class F>
  EVENFLOW_INLINE void run(const Team& team, int64_t count, int64_t most, const F& f) const {
    for (Piece piece; take(team, count, most, piece);) f(piece.first, piece.end);
  }

  /// By each thread, between a barrier after work() and one before the next.
  EVENFLOW_INLINE void reset(const Team& team) const { progress_[team.rank].item = 0; }

 private:
  struct Piece {
    int64_t first = 0, end = 0;
    int owner = 0;  ///< whose it is: so many ranks behind who takes it
  };

  // Not inlined: it would be in every product.
  bool take(const Team& team, int64_t count, int64_t most, Piece& piece) const;

  Progress* progress_;
};

/// The processors that a team's threads woke up on. A scheduler may wake a sleeping thread beside the one
/// that woke it, and leave both there: on some virtual machines for seconds, at half the speed.
class ThreadPlacement {
 public:
  ThreadPlacement();
  /// Moves the calling thread if a thread of lower rank took the same processor.
  void place(int rank);

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
  ThreadPlacement placement;
#pragma omp parallel num_threads(threads)
  {
    const Team team{omp_get_thread_num(), omp_get_num_threads()};
    placement.place(team.rank);
    f(team);
  }
}

}  // namespace evenflow

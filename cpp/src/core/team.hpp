#pragma once

#include <omp.h>

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow {

/// A thread's place in the team that runs one kernel.
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

/// A work-stealing queue. A thread takes items of its own share a few at a time, then items of others' shares
/// that are still left, so nobody waits long for a thread that was preempted. Results must not depend on
/// which thread takes an item.
class WorkQueue {
 public:
  /// Items taken from a share, in its own cache line.
  struct alignas(64) Progress {
    int64_t item;
  };
  /// progress: one per thread.
  EVENFLOW_INLINE WorkQueue(Progress* next, int threads) : progress_(next) {
    for (int t = 0; t < threads; ++t) progress_[t].item = 0;
  }

  /// Calls f(first, end) for at most `most` of `count` items at a time, and for fewer near the end of a
  /// share, to leave some to others. May be called once, and again after reset().
  template <class F>
  EVENFLOW_INLINE void run(const Team& team, int64_t count, int64_t most, const F& f) const {
    for (Piece piece; take(team, count, most, piece);) f(piece.first, piece.end);
  }

  /// Called by each thread after run() and a barrier, and before the barrier that precedes the next run().
  EVENFLOW_INLINE void reset(const Team& team) const { progress_[team.rank].item = 0; }

 private:
  struct Piece {
    int64_t first = 0, end = 0;
    int owner = 0;  ///< owner of the share, as a number of ranks after this thread
  };

  // Not inlined, to avoid a copy in every product.
  bool take(const Team& team, int64_t count, int64_t most, Piece& piece) const;

  Progress* progress_;
};

/// Spreads the threads of a team over processors. A scheduler may wake a thread on the processor of the
/// thread that woke it. On some virtual machines both stay there for seconds, at half speed.
class ThreadPlacement {
 public:
  ThreadPlacement();
  /// Moves the calling thread if one of lower rank runs on the same processor.
  void place(int rank);

 private:
  static constexpr int kMax = 64;
  int processor_[kMax];
};

/// Runs f(Team) on `threads` threads. A single thread calls f directly, since OpenMP costs more than a small
/// product. Each instruction set is another Caller: the linker would merge two compilations of one body.
template <class Caller, class F>
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

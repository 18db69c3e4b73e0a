#pragma once

#include "core/team.hpp"

namespace evenflow {

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

}  // namespace evenflow

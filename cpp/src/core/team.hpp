#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow {

/// A thread's place in the team that runs one kernel.
struct Team {
  int rank = 0;
  int size = 1;

  EVENFLOW_INLINE void barrier() const {
    if (size > 1) meet();
  }
  /// This thread's share [begin(count), end(count)) of `count` items.
  EVENFLOW_INLINE int64_t begin(int64_t count) const { return size > 1 ? count * rank / size : 0; }
  EVENFLOW_INLINE int64_t end(int64_t count) const { return size > 1 ? count * (rank + 1) / size : count; }

 private:
  void meet() const;
};

using TeamBody = void (*)(const void* f, const Team& team);

/// Calls body(f, Team) on at most `threads` threads, of which the calling one has rank 0. There is one crew
/// of threads in a process: a caller that finds it busy is a team of one.
void run_crew(int threads, TeamBody body, const void* f) noexcept;

/// Calls f(Team) on at most `threads` threads; f must not throw. Each instruction set is another Caller: the
/// linker would merge two compilations of one body.
template <class Caller, class F>
void run_team(int threads, const F& f) {
  if (threads <= 1) return f(Team());
  run_crew(threads, [](const void* body, const Team& team) { (*static_cast<const F*>(body))(team); }, &f);
}

/// How many threads a process should take: OMP_NUM_THREADS, or else as many as it has processors.
int usual_threads();

}  // namespace evenflow

#include "core/team.hpp"

#include "kernels/ops/math.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace evenflow {

bool WorkQueue::take(const Team& team, int64_t count, int64_t most, Piece& piece) const {
  for (; piece.owner < team.size; ++piece.owner) {
    const Team owner{(team.rank + piece.owner) % team.size, team.size};
    const int64_t begin = owner.begin(count), size = owner.end(count) - begin;
    int64_t* const next = &progress_[owner.rank].item;
    int64_t first = __atomic_load_n(next, __ATOMIC_RELAXED);
    while (first < size) {
      const int64_t left = size - first, part = team.size > 1 ? (left + 1) / 2 : left;
      const int64_t end = first + ops::min_of(part, most);
      if (!__atomic_compare_exchange_n(next, &first, end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
      piece.first = begin + first;
      piece.end = begin + end;
      return true;
    }
  }
  return false;
}

#if defined(__linux__)

ThreadPlacement::ThreadPlacement() {
  processor_[0] = sched_getcpu();
  for (int r = 1; r < kMax; ++r) processor_[r] = -1;
}

void ThreadPlacement::place(int rank) {
  if (rank == 0 || rank >= kMax) return;
  const int here = sched_getcpu();
  bool occupied = here < 0;
  for (int r = 0; r < rank && !occupied; ++r)
    occupied = __atomic_load_n(&processor_[r], __ATOMIC_RELAXED) == here;
  __atomic_store_n(&processor_[rank], here, __ATOMIC_RELAXED);
  cpu_set_t allowed;
  if (!occupied || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t free = allowed;
  for (int r = 0; r <= rank; ++r) {
    const int other = __atomic_load_n(&processor_[r], __ATOMIC_RELAXED);
    if (other >= 0) CPU_CLR(other, &free);
  }
  // The thread moves at once; afterwards it may again run anywhere.
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  __atomic_store_n(&processor_[rank], sched_getcpu(), __ATOMIC_RELAXED);
  sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

ThreadPlacement::ThreadPlacement() {}
void ThreadPlacement::place(int) {}

#endif

}  // namespace evenflow

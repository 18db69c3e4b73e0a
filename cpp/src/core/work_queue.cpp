#include "core/work_queue.hpp"

#include "kernels/ops/math.hpp"

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

}  // namespace evenflow

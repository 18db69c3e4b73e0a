#include "kernels/cpu/team.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace evenflow {

#if defined(__linux__)

Seats::Seats() {
  processor_[0] = sched_getcpu();
  for (int r = 1; r < kMax; ++r) processor_[r] = -1;
}

void Seats::take(int rank) {
  if (rank == 0 || rank >= kMax) return;
  const int here = sched_getcpu();
  bool taken = here < 0;
  for (int r = 0; r < rank && !taken; ++r) taken = __atomic_load_n(&processor_[r], __ATOMIC_RELAXED) == here;
  __atomic_store_n(&processor_[rank], here, __ATOMIC_RELAXED);
  cpu_set_t allowed;
  if (!taken || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t free = allowed;
  for (int r = 0; r <= rank; ++r) {
    const int seat = __atomic_load_n(&processor_[r], __ATOMIC_RELAXED);
    if (seat >= 0) CPU_CLR(seat, &free);
  }
  // Moves at once; the thread may run anywhere again afterwards.
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  __atomic_store_n(&processor_[rank], sched_getcpu(), __ATOMIC_RELAXED);
  sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

Seats::Seats() {}
void Seats::take(int) {}

#endif

}  // namespace evenflow

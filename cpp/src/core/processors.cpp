#include "core/processors.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "core/control_groups.hpp"

namespace evenflow {

#if defined(__linux__)

int usable_processors(const std::string& root) {
  cpu_set_t allowed;
  double count = sched_getaffinity(0, sizeof allowed, &allowed) == 0
                     ? CPU_COUNT(&allowed)
                     : std::thread::hardware_concurrency();  // cpu_set_t has room for 1,024 processors
  each_control_group(root, "cpu", [&](const std::string& group) {
    // Microseconds of each period, and the period; "max" or -1 is no quota. Version 2 has the first file.
    std::vector<int64_t> quota;
    for (const char* file : {"/cpu.max", "/cpu.cfs_quota_us", "/cpu.cfs_period_us"}) {
      for (const int64_t number : numbers_after(group + file, "")) quota.push_back(number);
    }
    if (quota.size() == 2 && quota[0] > 0 && quota[1] > 0) {
      count = std::min(count, std::ceil(static_cast<double>(quota[0]) / static_cast<double>(quota[1])));
    }
  });
  return std::max(1, static_cast<int>(count));
}

void Placement::begin(int size) {
  processor_[0].store(sched_getcpu(), std::memory_order_relaxed);
  for (int rank = 1; rank < std::min(size, kMost); ++rank)
    processor_[rank].store(-1, std::memory_order_relaxed);
}

void Placement::place(int rank) {
  if (rank >= kMost) return;
  const int here = sched_getcpu();
  bool occupied = here < 0;
  for (int r = 0; r < rank && !occupied; ++r) {
    occupied = processor_[r].load(std::memory_order_relaxed) == here;
  }
  processor_[rank].store(here, std::memory_order_relaxed);
  cpu_set_t allowed;
  if (!occupied || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t free = allowed;
  for (int r = 0; r <= rank; ++r) {
    const int other = processor_[r].load(std::memory_order_relaxed);
    if (other >= 0) CPU_CLR(other, &free);
  }
  // The thread moves at once; afterwards it may again run anywhere.
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  processor_[rank].store(sched_getcpu(), std::memory_order_relaxed);
  sched_setaffinity(0, sizeof allowed, &allowed);
}

#else

int usable_processors(const std::string&) {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}
void Placement::begin(int) {}
void Placement::place(int) {}

#endif

}  // namespace evenflow

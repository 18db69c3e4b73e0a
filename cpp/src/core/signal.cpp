#include "core/signal.hpp"

#include <chrono>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace evenflow {
namespace {

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Signal::raise() {
  // This stores the count before it loads the sleepers; a sleeper does the opposite. So at least one of them
  // sees the other, and no sleeper is missed.
  count_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wake();
}

void Signal::wait(uint32_t seen, bool spins) {
  using Clock = std::chrono::steady_clock;
  // A step's kernels follow each other sooner. Beside a busy process, a spin of 0.5 ms takes a core from
  // threads that have work, and steps take a tenth longer; after 0.1 ms threads sleep between kernels, and
  // all steps take longer.
  constexpr std::chrono::microseconds kSpin(200);
  if (spins) {
    for (const Clock::time_point end = Clock::now() + kSpin; Clock::now() < end;) {
      for (int i = 0; i < 32; ++i) {
        if (count() != seen) return;
        pause_processor();
      }
    }
  }
  if (count() != seen) return;
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (count_.load(std::memory_order_seq_cst) == seen) sleep(seen);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

// sleep() may return early. It does not sleep if the count has changed.

#if defined(__linux__)

void Signal::sleep(uint32_t seen) {
  syscall(SYS_futex, &count_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void Signal::wake() {
  syscall(SYS_futex, &count_, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

#else

void Signal::sleep(uint32_t seen) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return count_.load(std::memory_order_seq_cst) != seen; });
}
void Signal::wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
  }
  changed_.notify_all();
}

#endif

}  // namespace evenflow

#include "core/team.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <thread>

#include "core/processors.hpp"
#include "core/signal.hpp"
#include "evenflow/context.hpp"

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif

namespace evenflow {
namespace {

/// Threads that wait for kernels. They start when a team first needs them and end with the process, without
/// anybody's waiting for them: no destructor runs.
class Crew {
 public:
  /// The process's own. A forked child has a new one, since threads stay in the parent.
  static Crew& get();

  explicit Crew(int processors) : processors_(processors) {}

  bool take() { return !taken_.exchange(true, std::memory_order_acquire); }
  void give_back() { taken_.store(false, std::memory_order_release); }

  void run(int threads, TeamBody body, const void* f) {
    const int size = started(threads);
    if (size == 1) return body(f, Team());
    body_ = body;
    f_ = f;
    size_ = size;
    spins_ = size <= processors_;
    working_.store(size - 1, std::memory_order_relaxed);
    const uint32_t before = done_.count();
    placement_.begin(size);
    for (int rank = 1; rank < size; ++rank) members_[rank].work.raise();
    body(f, Team{0, size});
    done_.wait(before, spins_);
  }

  void meet(int size) {
    const uint32_t before = met_.count();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size) return met_.wait(before, spins_);
    arrived_.store(0, std::memory_order_relaxed);
    met_.raise();
  }

 private:
  static constexpr int kMost = kMostThreads;
  struct alignas(64) Member {
    Signal work;
  };

  /// Starts threads that are missing in a team of that size, and returns the size that can be had.
  int started(int threads) {
    while (started_ < std::min(threads, most_)) {
      try {
        start(started_);
        ++started_;
      } catch (const std::exception&) {  // a limit of processes or of memory
        most_ = started_;
      }
    }
    return std::min(threads, started_);
  }

  /// Starts a thread that blocks signals, so that the system delivers them to the program's own threads. It
  /// does not block signals such as SIGSEGV, which a thread gets for its own faults.
  void start(int rank) {
#if defined(_WIN32)
    std::thread(&Crew::serve, this, rank).detach();
#else
    sigset_t all, before;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread(&Crew::serve, this, rank).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
  }

  void serve(int rank) {
    for (uint32_t seen = 0;; ++seen) {
      members_[rank].work.wait(seen, processors_ > rank);
      placement_.place(rank);
      body_(f_, Team{rank, size_});
      if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) done_.raise();
    }
  }

  Member members_[kMost];
  std::atomic<bool> taken_{false};
  int started_ = 1, most_ = kMost;
  const int processors_;

  // Of the running team.
  TeamBody body_ = nullptr;
  const void* f_ = nullptr;
  int size_ = 1;
  bool spins_ = true;
  Placement placement_;
  alignas(64) std::atomic<int> working_{0};
  alignas(64) Signal done_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) Signal met_;
};

alignas(Crew) unsigned char place_of_crew[sizeof(Crew)];

Crew& Crew::get() {
  static Crew* const crew = [] {
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] {
      const int processors = reinterpret_cast<Crew*>(place_of_crew)->processors_;
      new (place_of_crew) Crew(processors);
    });
#endif
    return new (place_of_crew) Crew(usable_processors());
  }();
  return *crew;
}

// When the library is loaded: a fork beside the first call would leave the child a crew half made.
[[maybe_unused]] Crew& made_early = Crew::get();

}  // namespace

void Team::meet() const {
  Crew::get().meet(size);
}

void run_crew(int threads, TeamBody body, const void* f) noexcept {
  Crew& crew = Crew::get();
  if (!crew.take()) return body(f, Team());
  crew.run(threads, body, f);
  crew.give_back();
}

int usual_threads() {
  const char* wanted = std::getenv("OMP_NUM_THREADS");  // a number, or one for each level of nested teams
  int number = 0;
  if (wanted) std::from_chars(wanted, wanted + std::strlen(wanted), number);
  return std::min(number > 0 ? number : usable_processors(), kMostThreads);
}

}  // namespace evenflow

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "core/work_queue.hpp"
#include "kernels/ops/math.hpp"
#include "system.hpp"

// Threads that run kernels: teams, their barriers, and queues of work.

namespace evenflow::test {
namespace {

struct Here;

/// Whether every item was done once by a team that was asked to have so many threads, and met between.
bool done_by(int threads) {
  constexpr int64_t kItems = 1000;
  std::vector<int> done(kItems);
  bool seen = true;
  run_team<Here>(threads, [&](const Team& team) {
    for (int64_t i = team.begin(kItems); i < team.end(kItems); ++i) ++done[i];
    team.barrier();
    if (team.rank > 0) return;
    for (const int count : done) seen = seen && count == 1;
  });
  return seen;
}

#if !defined(_WIN32)
/// Whether a child process finds that f() holds, in a minute.
bool in_child(const std::function<bool()>& f) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(f() ? 0 : 1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && status == 0;
}
#endif

TEST_CASE("a team of any size does all, and its barrier shows what others did") {
  for (const int threads : {1, 2, 3, 8, 70}) {
    for (int turn = 0; turn < 20; ++turn) CHECK(done_by(threads));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the team sleeps, too
  CHECK(done_by(2));
}

TEST_CASE("inside another team, where a team is one thread") {
  std::atomic<int> largest{0};
  run_team<Here>(2, [&](const Team&) {
    run_team<Here>(2, [&](const Team& inner) { largest = std::max(largest.load(), inner.size); });
  });
  CHECK(largest == 1);
}

TEST_CASE("several callers at the same time") {
  std::vector<std::thread> callers;
  std::atomic<int> failed{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int turn = 0; turn < 300; ++turn) failed += !done_by(3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(failed == 0);
}

#if !defined(_WIN32)

TEST_CASE("a forked child has threads of its own") {
  CHECK(done_by(2));
  int size = 0;
  CHECK(in_child([&] {
    run_team<Here>(2, [&](const Team& team) {
      if (team.rank == 0) size = team.size;
    });
    return size == 2 && done_by(3);
  }));
  CHECK(done_by(2));
}

TEST_CASE("a fork beside a running team") {
  std::atomic<bool> ended{false};
  std::thread busy([&] {
    while (!ended) done_by(2);
  });
  for (int i = 0; i < 10; ++i) CHECK(in_child([] { return done_by(2); }));
  ended = true;
  busy.join();
}

#if !defined(__SANITIZE_ADDRESS__)  // which needs addresses without a limit
TEST_CASE("threads that the system refuses are done without") {
  CHECK(in_child([] {
    const rlimit none{1, 1};  // no memory for another thread's stack
    return setrlimit(RLIMIT_AS, &none) == 0 && done_by(500) && done_by(2);
  }));
}
#endif

#endif

TEST_CASE("a queue's items are done once a turn, whoever comes late") {
  constexpr int kTurns = 4;
  for (int threads = 1; threads <= 5; ++threads) {
    for (const int64_t count : {0, 1, 2, 7, 100}) {
      for (const int64_t most : {1, 3, 8}) {
        CAPTURE(threads);
        CAPTURE(count);
        CAPTURE(most);
        std::vector<WorkQueue::Progress> next(2 * threads);
        const WorkQueue queues[2] = {{next.data(), threads}, {next.data() + threads, threads}};
        std::vector<std::atomic<int>> done(count);
        std::atomic<bool> fit{true};
        run_team<Here>(threads, [&](const Team& team) {
          for (int turn = 0; turn < kTurns; ++turn) {
            if (team.rank == turn % threads) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            queues[turn % 2].run(team, ops::max_of<int64_t>(0, count - turn % 2), most,
                                 [&](int64_t first, int64_t end) {
                                   for (int64_t i = first; i < end; ++i) ++done[i];
                                   if (first >= end || end - first > most) fit = false;
                                 });
            queues[1 - turn % 2].reset(team);
            team.barrier();
          }
        });
        CHECK(fit);
        for (int64_t i = 0; i < count; ++i) CHECK(done[i] == (i + 1 < count ? kTurns : kTurns / 2));
      }
    }
  }
}

TEST_CASE("a thread does what others have not begun") {
  std::vector<WorkQueue::Progress> next(3);
  const WorkQueue queue(next.data(), 3);
  std::vector<int64_t> ends;
  queue.run(Team{1, 3}, 60, 8, [&](int64_t first, int64_t end) {
    CHECK(first == (ends.empty() ? 20 : ends.back() == 60 ? 0 : ends.back()));
    ends.push_back(end);
  });
  CHECK(ends == std::vector<int64_t>{28, 34, 37, 39, 40, 48, 54, 57, 59, 60, 8, 14, 17, 19, 20});
  std::vector<WorkQueue::Progress> one(1);
  ends.clear();
  WorkQueue(one.data(), 1).run(Team(), 20, 8, [&](int64_t, int64_t end) { ends.push_back(end); });
  CHECK(ends == std::vector<int64_t>{8, 16, 20});
}

TEST_CASE("the usual number of threads") {
  const int processors = usual_threads();
  CHECK(processors >= 1);
  setenv("OMP_NUM_THREADS", "3,2", 1);
  CHECK(usual_threads() == 3);
  for (const char* none : {"", "0", "many", "-1"}) {
    setenv("OMP_NUM_THREADS", none, 1);
    CHECK(usual_threads() >= 1);
  }
  unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace evenflow::test

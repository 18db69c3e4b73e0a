#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <stdexcept>

#include "core/device.hpp"
#include "emulator.hpp"
#include "evenflow/params.hpp"
#include "kernels/device/exec.hpp"

// What the emulated device must not let pass.

namespace evenflow::test {
namespace {

/// Whether f ends the process, in a child.
bool ends_the_process(const std::function<void()>& f) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    for (const int fatal : {SIGSEGV, SIGBUS, SIGILL})
      std::signal(fatal, SIG_DFL);  // not the test runner's report
    try {
      f();
    } catch (...) {
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

struct Write {
  int64_t shift;
  double* x;
  void operator()(int64_t, int64_t i) const { x[i + shift] = 1; }
};

struct Grow {
  double* x;
  void operator()(int64_t, int64_t i) const { x[i] += 1; }
};

/// A tree whose threads read what others write in the same phase.
struct Racing {
  static constexpr int threads = device::kThreads;
  struct Shared {
    double value[device::kThreads];
  };
  double* out;
  int64_t phases(int64_t) const { return 3; }
  void run(int64_t phase, const device::Place& at, Shared& shared) const {
    if (phase == 0) shared.value[at.thread] = at.thread;
    if (phase == 1) shared.value[at.thread] += shared.value[(at.thread + 1) % threads];
    if (phase == 2 && at.thread == 0) out[0] = shared.value[0] + shared.value[threads - 1];
  }
};

/// Writes behind shared memory, through a pointer.
struct Overrun {
  static constexpr int threads = 1;
  struct Shared {
    double value[3];
  };
  int64_t beyond;
  int64_t phases(int64_t) const { return 1; }
  void run(int64_t, const device::Place&, Shared& shared) const {
    double* end = shared.value + 2;
    end[beyond] = 1;
  }
};

using Exec = DeviceExec<EmulatedLauncher>;

}  // namespace

TEST_CASE("the emulator catches planted bugs") {
  install_emulator();
  Context ctx("emulated");
  Arrays a(ctx);
  double* x = a.make<double>(512);
  Exec::for_each(ctx, 1, 512, Write{0, x});
  CHECK(!ends_the_process([&] { Exec::for_each(ctx, 1, 512, Write{0, x}); }));
  CHECK(ends_the_process([&] { Exec::for_each(ctx, 1, 512, Write{1, x}); }));  // one past the end
  CHECK(ends_the_process([&] { Exec::for_each(ctx, 1, 513, Write{0, x}); }));
  CHECK(!ends_the_process([&] { Exec::launch(ctx, 1, Overrun{0}); }));
  CHECK(ends_the_process([&] { Exec::launch(ctx, 1, Overrun{1}); }));
  CHECK(ends_the_process([&] { x[0] = 1; }));  // the program follows a device's pointer
  double here[4];
  CHECK_THROWS_AS(Exec::for_each(ctx, 1, 4, Write{0, here}), std::logic_error);
  // Memory of another queue is there for those that follow it after that.
  Context other("emulated");
  Arrays b(other);
  double* early = b.make<double>(4);
  CHECK_THROWS_AS(Exec::for_each(ctx, 1, 4, Write{0, early}), std::logic_error);
  ctx.device()->follow(*other.device());
  double* late = b.make<double>(4);
  CHECK(!ends_the_process([&] { Exec::for_each(ctx, 1, 4, Write{0, early}); }));
  CHECK_THROWS_AS(Exec::for_each(ctx, 1, 4, Write{0, late}), std::logic_error);
  // Shared memory is the program's only between a synchronisation and the next kernel.
  SharedBuffer<double> shared(4, "emulated");
  Exec::for_each(ctx, 1, 4, Write{0, shared.data()});
  CHECK(ends_the_process([&] { shared.data()[0] = 2; }));
  ctx.synchronize();
  CHECK(shared.data()[3] == 1);
  // A race shows as a result that depends on the order of threads.
  std::vector<double> results;
  for (const Emulator::Order order : kOrders) {
    Emulator::get().order = order;
    EmulatedLauncher::launch(ctx, 1, Racing{x});
    results.push_back(a.get(x, 1)[0]);
  }
  Emulator::get().order = Emulator::ascending;
  CHECK((results[0] != results[1] || results[0] != results[2]));
}

}  // namespace evenflow::test

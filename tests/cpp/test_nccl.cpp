#include <doctest/doctest.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include "emulator.hpp"
#include "evenflow/error.hpp"
#include "kernels/cuda/nccl.hpp"

// What of the ranks of GPUs needs none: NCCL's functions, found in a library that stands in for it, and what
// becomes of its errors.

namespace evenflow::test {
namespace {

using cuda::Communicator;
using cuda::Nccl;

/// Of the DeviceError that f throws.
std::string problem(const std::function<void()>& f) {
  try {
    f();
  } catch (const DeviceError& error) {
    return error.what();
  }
  return "none";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Lets a function of the stand-in fail for a while.
struct Failing {
  explicit Failing(const char* what) { setenv("EVENFLOW_FAKE_NCCL", what, 1); }
  ~Failing() { unsetenv("EVENFLOW_FAKE_NCCL"); }
};

/// f(communicator, rank) of ranks that are threads.
void on_ranks(int size, const std::function<void(Communicator&, int)>& f) {
  const Nccl nccl = Nccl::load(FAKE_NCCL);
  char id[Backend::kIdBytes];
  nccl.make_id(id);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      Communicator comm(nccl, id, rank, size);
      f(comm, rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

template <class T>
void check_sums(int size) {
  for (const int64_t count : {1, 1000, 100000}) {
    std::vector<std::vector<T>> sums(static_cast<size_t>(size));
    on_ranks(size, [&](Communicator& comm, int rank) {
      std::vector<T> values(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<T>(i % 97 + rank);
      std::vector<T> total(values.size());
      comm.sum(values.data(), total.data(), count, nullptr);
      comm.sum(total.data(), total.data(), count, nullptr);  // in place
      comm.check();
      comm.settle();
      sums[static_cast<size_t>(rank)] = total;
    });
    bool right = true;
    for (const auto& total : sums) {
      for (int64_t i = 0; i < count; ++i) {
        const T once = static_cast<T>(size * (i % 97) + size * (size - 1) / 2);
        right = right && total[static_cast<size_t>(i)] == once * static_cast<T>(size);
      }
    }
    CHECK(right);
  }
}

TEST_CASE("nccl: sums") {
  for (const int size : {1, 2, 3}) {
    check_sums<float>(size);
    check_sums<double>(size);
  }
}

TEST_CASE("nccl: a library that is missing, or is another") {
  const std::string missing = problem([] { Nccl::load("/nowhere/libnccl.so.2"); });
  CHECK(has(missing, "[nccl] expected /nowhere/libnccl.so.2 for several GPUs, got none that loads"));
  CHECK(has(missing, "pip install \"evenflow[cuda]\""));
  CHECK(has(problem([] { Nccl::load("libc.so.6"); }), "expected ncclGetVersion in libc.so.6"));
  CHECK(has(problem([] { Nccl::load(FAKE_NCCL_INCOMPLETE); }), "expected ncclAllReduce in "));
}

TEST_CASE("nccl: calls that fail") {
  const Nccl nccl = Nccl::load(FAKE_NCCL);
  char id[Backend::kIdBytes];
  {
    const Failing failing("id");
    CHECK(problem([&] { nccl.make_id(id); }) ==
          "[nccl] expected ncclGetUniqueId of NCCL 2.23.4 to succeed, got unhandled system error");
  }
  nccl.make_id(id);
  {
    const Failing failing("init");
    CHECK(has(problem([&] { Communicator(nccl, id, 0, 1); }), "ncclCommInitRank"));
  }
  Communicator comm(nccl, id, 0, 1);
  double value = 1;
  {
    const Failing failing("sum");
    CHECK(has(problem([&] { comm.sum(&value, &value, 1, nullptr); }), "ncclAllReduce"));
  }
  const Failing failing("async");
  CHECK(has(problem([&] { comm.check(); }), "a sum over ranks of NCCL 2.23.4 to succeed, got remote error"));
}

TEST_CASE("nccl: a rank that leaves amid sums fails those of others, one that is through does not") {
  for (const bool through : {true, false}) {
    const Nccl nccl = Nccl::load(FAKE_NCCL);
    char id[Backend::kIdBytes];
    nccl.make_id(id);
    std::unique_ptr<Communicator> stays, leaves;
    const auto take_part = [&](std::unique_ptr<Communicator>& comm, int rank) {
      comm = std::make_unique<Communicator>(nccl, id, rank, 2);
      float value = 1;
      comm->sum(&value, &value, 1, nullptr);
    };
    std::thread other([&] { take_part(leaves, 1); });
    take_part(stays, 0);
    other.join();
    if (through) leaves->settle();
    leaves.reset();
    CHECK(has(problem([&] { stays->check(); }), through ? "none" : "remote error"));
  }
}

TEST_CASE("nccl: the sums of a backend, in its memory") {
  setenv("EVENFLOW_NCCL_LIBRARY", FAKE_NCCL, 1);
  install_emulator();
  const Backend& backend = *find_backend("emulated");
  CHECK(has(problem([&] { backend.prepare_rank(kEmulatedGpus); }), "for local rank 4"));
  backend.prepare_rank(1);
  char id[Backend::kIdBytes];
  backend.make_id(id);
  const std::unique_ptr<Collective> ranks(backend.join(id, 0, 1));
  Context ctx("emulated");
  Arrays arrays(ctx);
  const double* from = arrays.put(std::vector<double>{1, 2, 3});
  double* to = arrays.make<double>(3);
  ranks->start(*ctx.device(), from, to, 3);
  CHECK(ranks->done());
  ranks->finish(*ctx.device());
  CHECK(arrays.get(to, 3) == std::vector<double>{1, 2, 3});
}

TEST_CASE("nccl: which GPU a rank takes") {
  CHECK(cuda::gpu_of_rank(0, 2) == 0);
  CHECK(cuda::gpu_of_rank(1, 2) == 1);
  CHECK(cuda::gpu_of_rank(3, 1) == 0);  // the launcher's choice
  CHECK(has(problem([] { cuda::gpu_of_rank(2, 2); }),
            "expected a GPU for each rank of this machine, got 2 GPUs for local rank 2"));
}

}  // namespace
}  // namespace evenflow::test

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "kernels/cuda/nccl.hpp"

// Stands in for NCCL: sums in the memory of the program, over ranks that are threads or processes of one
// machine. EVENFLOW_FAKE_NCCL names what shall fail: id, init, sum or async.

namespace {

using evenflow::cuda::Nccl;

constexpr int kSystemError = 2, kInvalidArgument = 4, kRemoteError = 6;
constexpr int kRanks = 8;
constexpr size_t kChunk = 1 << 16;  ///< bytes
constexpr auto kPatience = std::chrono::seconds(20);

/// What the ranks of an id share, zero at first.
struct Job {
  std::atomic<int> came;  ///< to all meetings so far
  std::atomic<bool> aborted;
  alignas(64) char parts[kRanks][kChunk];
};

/// The last id's file goes at the latest with the process: its ranks may never have come.
struct LastId {
  Nccl::Id id{};
  ~LastId() { std::remove(id.bytes); }
} last;

bool fails(const char* what) {
  const char* chosen = std::getenv("EVENFLOW_FAKE_NCCL");
  return chosen && std::strcmp(chosen, what) == 0;
}

}  // namespace

struct ncclComm {
  Job* job;
  int rank, size;
  int meetings = 0;

  /// Waits for all ranks.
  bool meet() {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    ++job->came;
    for (++meetings; job->came < meetings * size; std::this_thread::yield()) {
      if (job->aborted || std::chrono::steady_clock::now() > deadline) return false;
    }
    return true;
  }

  template <class T>
  bool sum(const T* from, T* to, size_t count) {
    const size_t most = kChunk / sizeof(T);
    for (size_t done = 0, n; done < count; done += n) {
      n = std::min(most, count - done);
      std::memcpy(job->parts[rank], from + done, n * sizeof(T));
      if (!meet()) return false;
      for (size_t i = 0; i < n; ++i) {
        T total = 0;
        for (int r = 0; r < size; ++r) total += reinterpret_cast<const T*>(job->parts[r])[i];
        to[done + i] = total;
      }
      if (!meet()) return false;
    }
    return true;
  }
};

extern "C" {
#pragma GCC visibility push(default)

int ncclGetVersion(int* version) {
  *version = 22304;
  return 0;
}

int ncclGetUniqueId(Nccl::Id* id) {
  if (fails("id")) return kSystemError;
  *id = {"/tmp/evenflow-fake-nccl-XXXXXX"};
  const int file = mkstemp(id->bytes);
  if (file < 0 || ftruncate(file, sizeof(Job)) != 0) return kSystemError;
  close(file);
  last.id = *id;
  return 0;
}

int ncclCommInitRank(ncclComm** comm, int size, Nccl::Id id, int rank) {
  if (fails("init")) return kSystemError;
  if (size > kRanks || rank < 0 || rank >= size) return kInvalidArgument;
  std::FILE* file = std::fopen(id.bytes, "r+");
  if (!file) return kSystemError;
  void* memory = mmap(nullptr, sizeof(Job), PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
  std::fclose(file);
  if (memory == MAP_FAILED) return kSystemError;
  *comm = new ncclComm{static_cast<Job*>(memory), rank, size};
  if (!(*comm)->meet()) return kRemoteError;
  if (rank == 0) std::remove(id.bytes);
  return 0;
}

#ifndef INCOMPLETE
int ncclAllReduce(const void* from, void* to, size_t count, int type, int, ncclComm* comm, void*) {
  constexpr int kFloat = 7, kDouble = 8;
  if (fails("sum")) return kSystemError;
  if (type != kFloat && type != kDouble) return kInvalidArgument;
  const bool complete = type == kFloat
                            ? comm->sum(static_cast<const float*>(from), static_cast<float*>(to), count)
                            : comm->sum(static_cast<const double*>(from), static_cast<double*>(to), count);
  return complete ? 0 : kRemoteError;
}
#endif

int ncclCommGetAsyncError(ncclComm* comm, int* error) {
  *error = fails("async") || comm->job->aborted ? kRemoteError : 0;
  return 0;
}

int ncclCommDestroy(ncclComm* comm) {
  munmap(comm->job, sizeof(Job));
  delete comm;
  return 0;
}

int ncclCommAbort(ncclComm* comm) {
  comm->job->aborted = true;
  return ncclCommDestroy(comm);
}

const char* ncclGetErrorString(int error) {
  return error == kSystemError ? "unhandled system error" : error == kRemoteError ? "remote error" : "error";
}

#pragma GCC visibility pop
}

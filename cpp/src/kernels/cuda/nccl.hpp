#pragma once

#include <cstddef>
#include <cstdint>

// NCCL without CUDA's headers or its own: opened at run time, so that nobody needs it who trains on one GPU.

namespace evenflow::cuda {

/// What is used of NCCL's C interface, whose values never change. Results are 0 or an error.
struct Nccl {
  struct Id {
    char bytes[128];
  };
  using Comm = struct ncclComm*;

  int (*get_version)(int* version);
  int (*get_unique_id)(Id* id);
  int (*comm_init_rank)(Comm* comm, int size, Id id, int rank);
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int operation, Comm comm,
                    void* stream);
  int (*comm_get_async_error)(Comm comm, int* error);
  int (*comm_destroy)(Comm comm);
  int (*comm_abort)(Comm comm);
  const char* (*get_error_string)(int error);
  int version;

  /// DeviceError where the file does not load, or lacks a function.
  static Nccl load(const char* file);
  /// Of this process: libnccl.so.2, or the file that EVENFLOW_NCCL_LIBRARY names.
  static const Nccl& get();

  void make_id(char* id) const;
  /// DeviceError, with NCCL's text, unless a call succeeded.
  void check(int result, const char* call) const;
};

/// This process as one of the ranks of an id.
class Communicator {
 public:
  /// Waits for all ranks.
  Communicator(const Nccl& nccl, const char* id, int rank, int size);
  /// With sums on their way, or after an error, the other ranks get one.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Queued on a stream of CUDA's.
  void sum(const float* from, float* to, int64_t count, void* stream);
  void sum(const double* from, double* to, int64_t count, void* stream);
  /// DeviceError where a sum went wrong since it was queued, here or on another rank.
  void check();
  /// The caller has seen all sums complete.
  void settle() { pending_ = false; }

 private:
  void require(int result, const char* call);
  void all_reduce(const void* from, void* to, int64_t count, int type, void* stream);

  const Nccl& nccl_;
  Nccl::Comm comm_ = nullptr;
  bool pending_ = false, broken_ = false;
};

/// The GPU of a rank, of those that the driver shows to it. One alone is the launcher's choice for this rank.
int gpu_of_rank(int local_rank, int visible);

}  // namespace evenflow::cuda

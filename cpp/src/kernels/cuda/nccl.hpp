#pragma once

#include <cstddef>
#include <cstdint>

// NCCL, loaded at run time and without its headers or CUDA's, so training on one GPU does not need it.

namespace evenflow::cuda {

/// The part of NCCL's stable C interface that is used. Functions return 0 or an error.
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

  /// Throws DeviceError if the file does not load or lacks a function.
  static Nccl load(const char* file);
  /// The instance of this process: libnccl.so.2, or the file named by EVENFLOW_NCCL_LIBRARY.
  static const Nccl& get();

  void make_id(char* id) const;
  /// Throws DeviceError with NCCL's text if the call failed.
  void check(int result, const char* call) const;
};

/// This process as one rank of a communicator.
class Communicator {
 public:
  /// Waits for all ranks.
  Communicator(const Nccl& nccl, const char* id, int rank, int size);
  /// With unfinished sums, or after an error, aborts; the other ranks then get an error.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Queues a sum on a CUDA stream.
  void sum(const float* from, float* to, int64_t count, void* stream);
  void sum(const double* from, double* to, int64_t count, void* stream);
  /// Throws DeviceError if a sum has failed since it was queued, here or on another rank.
  void check();
  /// Tells the communicator that all sums are complete.
  void settle() { pending_ = false; }

 private:
  void require(int result, const char* call);
  void all_reduce(const void* from, void* to, int64_t count, int type, void* stream);

  const Nccl& nccl_;
  Nccl::Comm comm_ = nullptr;
  bool pending_ = false, broken_ = false;
};

/// GPU of a rank, among those that the driver shows to it. A single one was chosen for this rank by the
/// launcher.
int gpu_of_rank(int local_rank, int visible);

}  // namespace evenflow::cuda

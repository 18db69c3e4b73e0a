#include "kernels/cuda/nccl.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "core/device.hpp"
#include "evenflow/error.hpp"

namespace evenflow::cuda {
namespace {

constexpr int kInProgress = 7, kFloat32 = 7, kFloat64 = 8, kSum = 0;
static_assert(sizeof(Nccl::Id) == Backend::kIdBytes);

template <class F>
void find(void* library, const char* file, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (!function) fail<DeviceError>("nccl", "expected ", name, " in ", file, ", got a library without it");
}

/// Since 2.9, 22304 means 2.23.4. Before, 2804 meant 2.8.4.
std::string version_text(int version) {
  const int major = version < 10000 ? 1000 : 10000;
  return std::to_string(version / major) + "." + std::to_string(version % major / 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

Nccl Nccl::load(const char* file) {
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* problem = dlerror();
    fail<DeviceError>("nccl", "expected ", file, " for several GPUs, got none that loads (",
                      problem ? problem : "no reason given",
                      "); pip install \"evenflow[cuda]\", or name the file in "
                      "EVENFLOW_NCCL_LIBRARY");
  }
  Nccl nccl{};
  find(library, file, "ncclGetVersion", nccl.get_version);
  find(library, file, "ncclGetUniqueId", nccl.get_unique_id);
  find(library, file, "ncclCommInitRank", nccl.comm_init_rank);
  find(library, file, "ncclAllReduce", nccl.all_reduce);
  find(library, file, "ncclCommGetAsyncError", nccl.comm_get_async_error);
  find(library, file, "ncclCommDestroy", nccl.comm_destroy);
  find(library, file, "ncclCommAbort", nccl.comm_abort);
  find(library, file, "ncclGetErrorString", nccl.get_error_string);
  nccl.check(nccl.get_version(&nccl.version), "ncclGetVersion");
  return nccl;
}

const Nccl& Nccl::get() {
  const char* const chosen = std::getenv("EVENFLOW_NCCL_LIBRARY");
  static const Nccl nccl = load(chosen && *chosen ? chosen : "libnccl.so.2");  // retried after a failure
  return nccl;
}

void Nccl::make_id(char* id) const {
  Id made;
  check(get_unique_id(&made), "ncclGetUniqueId");
  std::memcpy(id, made.bytes, sizeof made.bytes);
}

void Nccl::check(int result, const char* call) const {
  if (result == 0) return;
  fail<DeviceError>("nccl", "expected ", call, " of NCCL ", version_text(version), " to succeed, got ",
                    get_error_string(result));
}

Communicator::Communicator(const Nccl& nccl, const char* id, int rank, int size) : nccl_(nccl) {
  Nccl::Id given;
  std::memcpy(given.bytes, id, sizeof given.bytes);
  nccl_.check(nccl_.comm_init_rank(&comm_, size, given, rank), "ncclCommInitRank");
}

Communicator::~Communicator() {
  if (pending_ || broken_) {
    nccl_.comm_abort(comm_);
  } else {
    nccl_.comm_destroy(comm_);
  }
}

void Communicator::sum(const float* from, float* to, int64_t count, void* stream) {
  all_reduce(from, to, count, kFloat32, stream);
}

void Communicator::sum(const double* from, double* to, int64_t count, void* stream) {
  all_reduce(from, to, count, kFloat64, stream);
}

void Communicator::check() {
  int error = 0;
  require(nccl_.comm_get_async_error(comm_, &error), "ncclCommGetAsyncError");
  if (error != kInProgress) require(error, "a sum over ranks");
}

void Communicator::require(int result, const char* call) {
  broken_ = broken_ || result != 0;
  nccl_.check(result, call);
}

void Communicator::all_reduce(const void* from, void* to, int64_t count, int type, void* stream) {
  pending_ = true;
  require(nccl_.all_reduce(from, to, static_cast<size_t>(count), type, kSum, comm_, stream), "ncclAllReduce");
}

int gpu_of_rank(int local_rank, int visible) {
  if (visible == 1) return 0;
  if (local_rank < 0 || local_rank >= visible) {
    fail<DeviceError>("nccl", "expected a GPU for each rank of this machine, got ", visible,
                      " GPUs for local rank ", local_rank);
  }
  return local_rank;
}

}  // namespace evenflow::cuda

#include <memory>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/event.cuh"
#include "kernels/cuda/nccl.hpp"

// Sums over ranks on a stream of their own, concurrent with kernels on other streams.

namespace evenflow::cuda {
namespace {

class CudaCollective final : public Collective {
 public:
  CudaCollective(const char* id, int rank, int size)
      : comm_(std::make_unique<Communicator>(Nccl::get(), id, rank, size)) {}

  ~CudaCollective() override {
    const OnGpu here;
    if (cudaStreamQuery(reinterpret_cast<cudaStream_t>(queue_.handle())) == cudaSuccess) comm_->settle();
    cudaGetLastError();  // clear it, or the next launch would report an unfinished sum
    comm_.reset();       // aborts sums that wait for a rank; the queue's destructor would wait for them
  }

  void start(Device& after, const float* from, float* to, int64_t count) override {
    add_up(after, from, to, count);
  }
  void start(Device& after, const double* from, double* to, int64_t count) override {
    add_up(after, from, to, count);
  }

  bool done() override {
    const cudaError_t status = cudaStreamQuery(queue_.stream());
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // clear it, or the next launch would report it
    } else {
      check(status, "a sum over ranks");
    }
    comm_->check();
    return status == cudaSuccess;
  }

  void finish(Device& device) override {
    sums_.order(queue_.stream(), static_cast<CudaDevice&>(device).stream());
    comm_->check();
  }

 private:
  template <class T>
  void add_up(Device& after, const T* from, T* to, int64_t count) {
    kernels_.order(static_cast<CudaDevice&>(after).stream(), queue_.stream());
    comm_->sum(from, to, count, queue_.stream());
  }

  CudaDevice queue_;  // first, because NCCL uses the GPU of the thread
  Event kernels_, sums_;
  std::unique_ptr<Communicator> comm_;
};

}  // namespace

void prepare_rank(int local_rank) {
  choose_gpu(local_rank);
  Nccl::get();
}

void make_id(char* id) {
  Nccl::get().make_id(id);
}

Collective* join(const char* id, int rank, int size) {
  return new CudaCollective(id, rank, size);
}

}  // namespace evenflow::cuda

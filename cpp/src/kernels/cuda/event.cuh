#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.cuh"

namespace evenflow::cuda {

/// An event without timing.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Work queued on `later` from now on waits for all work on `earlier`.
  void order(cudaStream_t earlier, cudaStream_t later) {
    check(cudaEventRecord(event_, earlier), "an event");
    check(cudaStreamWaitEvent(later, event_, 0), "a wait for an event");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace evenflow::cuda

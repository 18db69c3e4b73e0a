#include "emulator.hpp"

// The emulated device in the place of libevenflow_cuda.so, which EVENFLOW_CUDA_LIBRARY names.

extern "C" __attribute__((visibility("default"))) const evenflow::Backend* evenflow_cuda_backend(int) {
  static const evenflow::Backend backend = evenflow::test::emulated_backend("cuda");
  return &backend;
}

#include "kernels/cuda/launch.cuh"
#include "kernels/device/mma_stacks.hpp"

namespace evenflow {

template void mma_stack_forward<cuda::Launcher, Bf16>(Context&, const StackUnit<float>*, int,
                                                      View<const float>, Bf16*, View<float>);
template void mma_stack_backward<cuda::Launcher, Bf16>(Context&, const StackUnit<float>*, int,
                                                       View<const float>, const Bf16*, View<const float>,
                                                       View<float>);

}  // namespace evenflow

#include "kernels/cuda/launch.cuh"
#include "kernels/device/mma_stacks.hpp"

namespace evenflow {

template void mma_stack_forward<cuda::Launcher, float>(Context&, const StackUnit<float>*, int,
                                                       View<const float>, float*, View<float>);
template void mma_stack_backward<cuda::Launcher, float>(Context&, const StackUnit<float>*, int,
                                                        View<const float>, const float*, View<const float>,
                                                        View<float>);

}  // namespace evenflow

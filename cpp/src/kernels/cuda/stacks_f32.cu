#include "kernels/cuda/launch.cuh"
#include "kernels/device/matrix_stacks.hpp"

namespace evenflow {

template void matrix_stack_forward<cuda::Launcher, float>(Context&, const StackUnit<float>*, int,
                                                          View<const float>, float*, View<float>);
template void matrix_stack_backward<cuda::Launcher, float>(Context&, const StackUnit<float>*, int,
                                                           View<const float>, const float*, View<const float>,
                                                           View<float>);

}  // namespace evenflow

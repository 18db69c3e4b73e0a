#include "emulator.hpp"
#include "kernels/device/mma_stacks.hpp"

namespace evenflow {

template void mma_stack_forward<test::EmulatedLauncher, float>(Context&, const StackUnit<float>*, int,
                                                               View<const float>, float*, View<float>);
template void mma_stack_backward<test::EmulatedLauncher, float>(Context&, const StackUnit<float>*, int,
                                                                View<const float>, const float*,
                                                                View<const float>, View<float>);

}  // namespace evenflow

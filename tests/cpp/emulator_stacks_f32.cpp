#include "emulator.hpp"
#include "kernels/device/matrix_stacks.hpp"

namespace evenflow {

template void matrix_stack_forward<test::EmulatedLauncher, float>(Context&, const StackUnit<float>*, int,
                                                                  View<const float>, float*, View<float>);
template void matrix_stack_backward<test::EmulatedLauncher, float>(Context&, const StackUnit<float>*, int,
                                                                   View<const float>, const float*,
                                                                   View<const float>, View<float>);

}  // namespace evenflow

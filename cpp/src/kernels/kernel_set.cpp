#include "kernels/kernel_set.hpp"

namespace evenflow {

// Out of line: an inline destructor would be emitted by every instruction set's unit and merged.
template <class T>
KernelSet<T>::~KernelSet() = default;

template class KernelSet<float>;
template class KernelSet<double>;

}  // namespace evenflow

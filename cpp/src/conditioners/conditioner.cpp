#include "evenflow/conditioner.hpp"

namespace evenflow {

template <class T>
Conditioner<T>::~Conditioner() = default;

template class Conditioner<float>;
template class Conditioner<double>;

}  // namespace evenflow

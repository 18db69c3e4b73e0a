#include "layers/coupling.hpp"

namespace evenflow {

template <class T>
std::unique_ptr<Layer<T>> additive_coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net) {
  return coupling<T>("additive_coupling", in, mask, std::move(net), CouplingLaw::additive, {});
}

template std::unique_ptr<Layer<float>> additive_coupling<float>(Shape, Mask,
                                                                std::unique_ptr<Conditioner<float>>);
template std::unique_ptr<Layer<double>> additive_coupling<double>(Shape, Mask,
                                                                  std::unique_ptr<Conditioner<double>>);

}  // namespace evenflow

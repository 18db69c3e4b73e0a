#include "layers/coupling.hpp"

namespace evenflow {

template <class T>
std::unique_ptr<Layer<T>> affine_coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                          const AffineOptions& options) {
  const CouplingLaw law = options.law == ScaleLaw::glow       ? CouplingLaw::glow
                          : options.law == ScaleLaw::real_nvp ? CouplingLaw::real_nvp
                          : options.law == ScaleLaw::bounded  ? CouplingLaw::bounded
                                                              : CouplingLaw::gaussian;
  return coupling<T>("affine_coupling", in, mask, std::move(net), law, options);
}

template std::unique_ptr<Layer<float>> affine_coupling<float>(Shape, Mask,
                                                              std::unique_ptr<Conditioner<float>>,
                                                              const AffineOptions&);
template std::unique_ptr<Layer<double>> affine_coupling<double>(Shape, Mask,
                                                                std::unique_ptr<Conditioner<double>>,
                                                                const AffineOptions&);

}  // namespace evenflow

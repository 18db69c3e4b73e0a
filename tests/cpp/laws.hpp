#pragma once

#include "evenflow/layers.hpp"
#include "kernels/coupling/laws.hpp"

namespace evenflow::test {

inline CouplingOptions law_options(const std::string& name, bool interleaved = false) {
  CouplingOptions options;
  options.law.name = name;
  options.interleaved = interleaved;
  return options;
}

/// Every law of the table, with splines on both kinds of interval.
inline std::vector<LawOptions> every_law() {
  std::vector<LawOptions> out;
  for (const std::string& name : law_names()) out.push_back({name, 8, 4, false});
  out.push_back({"spline", 3, 1.5, false});
  out.push_back({"spline", 4, 1, true});
  return out;
}

template <class T>
std::unique_ptr<Layer<T>> additive_coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net) {
  return coupling<T>(in, mask, std::move(net), law_options("additive"));
}

constexpr Activation kActivations[] = {Activation::relu, Activation::leaky_relu, Activation::tanh,
                                       Activation::silu, Activation::elu};

constexpr Mask kMasks[] = {Mask::second_half, Mask::first_half,    Mask::odd,
                           Mask::even,        Mask::checkerboard0, Mask::checkerboard1};

}  // namespace evenflow::test

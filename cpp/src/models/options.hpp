#pragma once

#include <cmath>
#include <string>

#include "evenflow/error.hpp"
#include "models/settings.hpp"

// Translates settings that several models share. Their values have been checked.

namespace evenflow {

inline Base base_of(const std::string& prior) {
  return prior == "gaussian" ? Base::gaussian : prior == "uniform" ? Base::uniform : Base::logistic;
}

/// The law for a model's `coupling` setting. "affine" means the law of that model's paper.
inline LawOptions law_of(const GlowConfig& c) {
  LawOptions law;
  law.name = c.coupling == "affine" ? "glow" : c.coupling == "bounded" ? "affine" : c.coupling;
  return law;
}
inline LawOptions law_of(const RealNvpConfig& c) {
  LawOptions law;
  law.name = c.coupling == "affine" ? "real_nvp" : c.coupling;
  return law;
}
inline LawOptions law_of(const CouplingFlowConfig& c) {
  LawOptions law;
  law.name = c.law;
  law.bins = c.bins;
  law.bound = c.bound;
  law.unit_interval = base_of(c.base) == Base::uniform;
  return law;
}

inline Activation activation_of(const std::string& name) {
  return name == "leaky_relu" ? Activation::leaky_relu
         : name == "tanh"     ? Activation::tanh
         : name == "silu"     ? Activation::silu
         : name == "elu"      ? Activation::elu
                              : Activation::relu;
}

inline Order order_of(const std::string& name) {
  return name == "tile" ? Order::even_first : name == "shuffle" ? Order::shuffle : Order::reverse;
}

/// The layer for a `preprocess` setting; null for "none".
template <class T>
std::unique_ptr<Layer<T>> preprocess_of(const std::string& preprocess, Shape in) {
  if (preprocess == "none") return nullptr;
  if (preprocess == "standardize") return standardize<T>(in);
  return whiten<T>(in, preprocess == "zca" ? Whitening::zca : Whitening::covariance);
}

}  // namespace evenflow

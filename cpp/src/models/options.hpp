#pragma once

#include <cmath>
#include <string>

#include "evenflow/error.hpp"
#include "evenflow/models.hpp"

// Settings shared by the models.

namespace evenflow {

inline void expect_at_least(const char* model, const char* name, int64_t value, int64_t least) {
  if (value < least) fail<ConfigError>(model, "expected ", name, " >= ", least, ", got ", value);
}

inline void expect_bits(const char* model, int64_t bits) {
  if (bits < 1 || bits > 8) fail<ConfigError>(model, "expected 1 <= bits <= 8, got ", bits);
}

/// true for "affine", false for "additive".
inline bool is_affine(const char* model, const std::string& coupling) {
  if (coupling == "affine") return true;
  if (coupling == "additive") return false;
  fail<ConfigError>(model, "expected coupling affine or additive, got ", coupling);
}

inline Base base_of(const char* model, const std::string& prior) {
  if (prior == "gaussian") return Base::gaussian;
  if (prior == "logistic") return Base::logistic;
  fail<ConfigError>(model, "expected prior gaussian or logistic, got ", prior);
}

/// The layer of a "none" | "standardize" | "zca" | "whiten" setting; null for "none".
template <class T>
std::unique_ptr<Layer<T>> preprocess_of(const char* model, const std::string& preprocess, Shape in) {
  if (preprocess == "none") return nullptr;
  if (preprocess == "standardize") return standardize<T>(in);
  if (preprocess == "zca") return whiten<T>(in, Whitening::zca);
  if (preprocess == "whiten") return whiten<T>(in, Whitening::covariance);
  fail<ConfigError>(model, "expected preprocess none, standardize, zca or whiten, got ", preprocess);
}

}  // namespace evenflow

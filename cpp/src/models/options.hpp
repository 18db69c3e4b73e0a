#pragma once

#include <cmath>
#include <string>

#include "evenflow/error.hpp"
#include "evenflow/models.hpp"
#include "models/model_size.hpp"

// Settings shared by the models.

namespace evenflow {

// More than any model has, and little enough that no product of two of them and a kernel overflows. A file's
// settings and a program's have the same bounds: what can be saved can be loaded.
constexpr int64_t kMaxLayers = 1 << 16, kMaxWidth = 1 << 20, kMaxDims = 1 << 27, kMaxScales = 30;
constexpr int64_t kMaxTensors = 1 << 20, kMaxValues = int64_t{1} << 48;

inline void expect_in(const char* model, const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    fail<ConfigError>(model, "expected ", name, " in ", low, " ... ", high, ", got ", value);
  }
}

inline void expect_image(const char* model, const Shape& s) {
  if (s.h < 1 || s.w < 1 || s.c < 1) {
    fail<ShapeError>(model, "expected positive sizes, got ", s.h, " x ", s.w, " x ", s.c);
  }
  for (const int64_t size : {s.h, s.w, s.c}) expect_in(model, "a size in shape", size, 1, kMaxWidth);
  if (s.h * s.w > kMaxDims || s.per_sample() > kMaxDims) {
    fail<ConfigError>(model, "expected at most ", kMaxDims, " values a sample, got ", s.h, " x ", s.w, " x ",
                      s.c);
  }
}

inline void expect_widths(const char* model, const std::vector<int64_t>& hidden) {
  expect_in(model, "the number of hidden layers", static_cast<int64_t>(hidden.size()), 0, kMaxLayers);
  for (const int64_t width : hidden) expect_in(model, "a width in hidden", width, 1, kMaxWidth);
}

/// Before any layer is made. Settings within their bounds.
inline void expect_size(const char* model, const ModelConfig& config) {
  const ModelSize least = least_size(config);
  if (least.tensors > kMaxTensors || least.values > kMaxValues) {
    fail<ConfigError>(model, "expected a model of at most ", kMaxTensors, " tensors and ", kMaxValues,
                      " values, got settings of a larger one");
  }
}

/// The ranges of a model's numbers, for its builder and for settings that are read: ConfigError, or
/// ShapeError for sizes of which there is no sample. `where` begins the text.
void expect_ranges(const char* where, const NiceConfig&);
void expect_ranges(const char* where, const RealNvpImageConfig&);
void expect_ranges(const char* where, const RealNvpTableConfig&);
void expect_ranges(const char* where, const GlowConfig&);

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

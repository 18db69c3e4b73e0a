#include "models/settings.hpp"

#include <cmath>

#include "io/json.hpp"

namespace evenflow {

void expect_choice(const char* where, const char* name, const std::string& value,
                   const std::vector<std::string>& choices) {
  std::string listed;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == value) return;
    listed += (i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ") + choices[i];
  }
  fail<ConfigError>(where, "expected ", name, ' ', listed, ", got ", json::shown(value));
}

namespace {

/// Checks settings against their limits.
class Checker {
 public:
  static constexpr bool kAll = false;

  explicit Checker(const char* where) : where_(where) {}

  void shape(const Shape& s, bool, const char*) const {
    if (s.h < 1 || s.w < 1 || s.c < 1) {
      fail<ShapeError>(where_, "expected positive sizes, got ", s.h, " x ", s.w, " x ", s.c);
    }
    for (const int64_t size : {s.h, s.w, s.c}) expect_in(where_, "a size in shape", size, 1, kMaxWidth);
    if (s.h * s.w > kMaxDims || s.per_sample() > kMaxDims) {
      fail<ConfigError>(where_, "expected at most ", kMaxDims, " values a sample, got ", s.h, " x ", s.w,
                        " x ", s.c);
    }
    if (s.per_sample() < 2) {
      fail<ShapeError>(where_, "expected at least 2 dimensions, got ", s.per_sample());
    }
  }
  void shape(int64_t columns, const char*) const { expect_in(where_, "dims", columns, 1, kMaxWidth); }

  void operator()(const char* name, int64_t value, const Limits& limits, const char*) const {
    expect_in(where_, name, value, limits.low, limits.high);
  }
  void operator()(const char* name, double value, const Limits& limits, const char*) const {
    const bool too_large = limits.high < Limits::kNone && value > static_cast<double>(limits.high);
    if (!(value >= static_cast<double>(limits.low)) || too_large || !std::isfinite(value)) {
      fail<ConfigError>(where_, "expected a finite ", name, " >= ", limits.low, ", got ", value);
    }
  }
  void operator()(const char* name, const std::string& value, const Limits& limits, const char*) const {
    expect_choice(where_, name, value, limits.choices);
  }
  void operator()(const char* name, const TableMask& mask, const Limits& limits, const char*) const {
    if (!mask.scheme.empty()) expect_choice(where_, name, mask.scheme, limits.choices);
  }
  void operator()(const char* name, const std::vector<int64_t>& values, const Limits& limits,
                  const char*) const {
    expect_in(where_, "the number of hidden layers", static_cast<int64_t>(values.size()), 0, kMaxLayers);
    const std::string width = text_of("a width in ", name);
    for (const int64_t value : values) expect_in(where_, width.c_str(), value, limits.low, limits.high);
  }
  /// Nothing to check: either every value of the type is valid, or the layer checks it (bounds).
  template <class T>
  void operator()(const char*, const T&, const Limits&, const char*) const {}

 private:
  const char* where_;
};

/// Settings that depend on each other and are needed before the model is built.
template <class C>
void check_together(const char*, const C&) {}
void check_together(const char* where, const CouplingFlowConfig& config) {
  check_mask(where, config);
  if (config.dropout >= 1) {
    fail<ConfigError>(where, "expected a share of hidden units in [0, 1) for dropout, got ", config.dropout);
  }
  const std::vector<std::string> laws = laws_with_settings();  // files of others do not hold it
  if (config.unconditional && std::find(laws.begin(), laws.end(), config.law) == laws.end()) {
    fail<ConfigError>(where, "unconditional is a setting of splines, got law ", config.law);
  }
}

}  // namespace

void check(const char* where, ModelConfig config) {
  const Checker checker(where);
  std::visit(
      [&](auto& settings) {
        visit_settings(checker, settings, config);
        check_together(where, settings);
      },
      config.model);
}

ModelConfig resolved(ModelConfig config) {
  auto* table = std::get_if<CouplingFlowConfig>(&config.model);
  if (!table) return config;
  constexpr int64_t kMixedColumns = 256;  // each matrix takes eight products of its size in a step
  const bool in_box = table->base == "uniform", one = table->dims == 1;
  if (table->permutation == "auto")
    table->permutation = one ? "none" : in_box || table->dims > kMixedColumns ? "shuffle" : "lu-shuffle";
  if (table->preprocess == "auto") table->preprocess = in_box ? "none" : "standardize";
  // A spline is the identity beyond its bound. A logistic base has 4 % of its mass there, which a learned
  // matrix can scale. With a context, densities mostly have Gaussian tails.
  const bool scales = table->permutation == "lu" || table->permutation == "lu-shuffle";
  const bool logistic = scales && !one && table->context == 0;
  if (table->base == "auto") table->base = logistic ? "logistic" : "gaussian";
  return config;
}

}  // namespace evenflow

#pragma once

#include <string>
#include <variant>

#include "evenflow/models.hpp"

namespace evenflow {

/// The arithmetic of a flow.
enum class Dtype { float32, float64 };

/// "float32" or "float64".
EVENFLOW_API const char* to_string(Dtype dtype);

template <class T>
constexpr Dtype dtype_of();
template <>
constexpr Dtype dtype_of<float>() {
  return Dtype::float32;
}
template <>
constexpr Dtype dtype_of<double>() {
  return Dtype::float64;
}

/// What a model is: everything that its file says besides the parameters.
struct ModelConfig {
  std::variant<NiceConfig, RealNvpImageConfig, RealNvpTableConfig, GlowConfig> model;
  Dtype dtype = Dtype::float32;
  uint64_t seed = 0;  ///< of the parameters at the start
};

/// The settings in a model file's JSON. ConfigError for JSON, names, types or sizes that no model has.
EVENFLOW_API ModelConfig parse_config(const std::string& json);
/// The same settings as JSON, in the text that the Python package writes. It calls the nets' arithmetic as
/// its user did: float32, the default, which stands for the model's own, or float64; here that is always
/// float32.
EVENFLOW_API std::string to_json(const ModelConfig& config);

/// The flow that the settings describe; ConfigError or ShapeError where they do not fit together.
template <class T>
EVENFLOW_API Flow<T> build(const ModelConfig& config);

}  // namespace evenflow

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

/// A model's settings: everything in its file except the parameters.
struct ModelConfig {
  std::variant<NiceConfig, RealNvpConfig, CouplingFlowConfig, GlowConfig> model;
  Dtype dtype = Dtype::float32;
  uint64_t seed = 0;  ///< seed of the initial parameters
};

/// Parses a model file's settings. ConfigError for invalid JSON, and for names, types or sizes that no model
/// has.
EVENFLOW_API ModelConfig parse_config(const std::string& json);
/// The settings as JSON, formatted as the Python package writes them. There is one difference: nets that use
/// the model's own arithmetic are always written as float32 here, while Python keeps its user's float32 or
/// float64.
EVENFLOW_API std::string to_json(const ModelConfig& config);

/// Builds the flow. ConfigError or ShapeError if the settings do not fit together, and ConfigError
/// for more tensors or values than the limit, before memory for them is taken.
template <class T>
EVENFLOW_API Flow<T> build(const ModelConfig& config, const ParamLimit& limit = {});

}  // namespace evenflow

#pragma once

#include <string>

#include "evenflow/config.hpp"
#include "evenflow/optim.hpp"

namespace evenflow {

/// A flow with its settings and parameters: the content of a model file.
template <class T>
struct EVENFLOW_API Trainable {
  /// Builds the flow and initialises its parameters from config.seed. config.dtype becomes T's.
  explicit Trainable(const ModelConfig& config);
  /// Takes a flow that was built from the settings; parameters are zero.
  Trainable(ModelConfig config, Flow<T> flow);

  ModelConfig config;
  Flow<T> flow;
  ParamArena<T> arena;
};

/// Loads a model file for further training. IoError as for `load`, and if the file's dtype is not T's.
template <class T>
EVENFLOW_API Trainable<T> load_trainable(const std::string& path);

/// Writes a model file that `load` and the Python package read. The write is atomic: after an error an
/// existing file is unchanged. IoError if writing fails. ConfigError if the settings are not those of the
/// flow. This compares tensor names and shapes, the sample shape, the prior and the classes; it cannot see
/// settings that only change how the same tensors are used, such as the order of masks.
template <class T>
EVENFLOW_API void save(const std::string& path, const Trainable<T>& model);

/// Write and read an optimiser's step count and moments. Together with the model file and the order of the
/// data they let training continue exactly. IoError if the state belongs to another rule.
template <class T>
EVENFLOW_API void save_optimizer(const std::string& path, Optimizer<T>& optimizer);
template <class T>
EVENFLOW_API void load_optimizer(const std::string& path, Optimizer<T>& optimizer);

extern template struct Trainable<float>;
extern template struct Trainable<double>;

}  // namespace evenflow

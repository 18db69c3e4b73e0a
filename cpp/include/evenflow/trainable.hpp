#pragma once

#include <string>

#include "evenflow/config.hpp"
#include "evenflow/optim.hpp"

namespace evenflow {

/// A flow with its settings and parameters: what training changes, and what a model file holds.
template <class T>
struct EVENFLOW_API Trainable {
  /// Fresh parameters from config.seed; config.dtype becomes T's.
  explicit Trainable(const ModelConfig& config);
  /// The settings' flow, built already, and parameters that are all zero.
  Trainable(ModelConfig config, Flow<T> flow);

  ModelConfig config;
  Flow<T> flow;
  ParamArena<T> arena;
};

/// A model file, to go on training it. IoError as for `load`, and where the file's dtype is not T's.
template <class T>
EVENFLOW_API Trainable<T> load_trainable(const std::string& path);

/// Writes a model file that `load` and the Python package read. It appears complete or not at all: IoError
/// leaves an old one as it was, and so does ConfigError for settings of another model than the flow. They are
/// compared as far as the flow shows them, by its tensors' names and shapes, its samples' shape, its prior
/// and its classes; those that change what the same tensors mean, such as the masks' order, are not.
template <class T>
EVENFLOW_API void save(const std::string& path, const Trainable<T>& model);

/// Writes and reads an optimiser's number of steps and moments; with the model file, all that an exact
/// continuation needs besides the order of the data. IoError where the state is not of this optimiser's rule.
template <class T>
EVENFLOW_API void save_optimizer(const std::string& path, Optimizer<T>& optimizer);
template <class T>
EVENFLOW_API void load_optimizer(const std::string& path, Optimizer<T>& optimizer);

extern template struct Trainable<float>;
extern template struct Trainable<double>;

}  // namespace evenflow

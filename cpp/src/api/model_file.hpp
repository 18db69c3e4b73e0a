#pragma once

#include "evenflow/io.hpp"
#include "evenflow/trainable.hpp"
#include "io/file.hpp"

namespace evenflow {

/// A model file as read, before its flow is built.
struct ModelFile {
  TensorFile file;
  ModelConfig config;
};

/// Reads a model file and its settings; IoError.
ModelFile read_model(const Site& site);

/// The model of a file whose dtype is T's; IoError.
template <class T>
Trainable<T> restore(const ModelFile& model, const Site& site);

}  // namespace evenflow

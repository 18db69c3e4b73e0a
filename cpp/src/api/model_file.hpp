#pragma once

#include <cstddef>

#include "evenflow/model.hpp"
#include "evenflow/trainable.hpp"
#include "io/safetensors.hpp"

namespace evenflow {

/// A parsed model file. It is checked except for what needs the flow. Its tensors point into the bytes that
/// were parsed.
struct ModelFile {
  TensorViews file;
  ModelConfig config;
};

/// Parses a model file; IoError.
ModelFile view_model(Bytes file, const Site& site);

/// Builds the model of a file whose dtype is T's, and copies its tensors; IoError.
template <class T>
Trainable<T> restore(const ModelFile& model, const Site& site);

/// Loads a model from a file's bytes; IoError.
Model load_model(Bytes file, const Site& site);

/// Like load(), but throws std::bad_alloc if there is no memory.
Model load_file(const Site& site);
Model load_bytes(const void* bytes, size_t size, const Site& site);

}  // namespace evenflow

#pragma once

#include <cstddef>

#include "evenflow/model.hpp"
#include "evenflow/trainable.hpp"
#include "io/safetensors.hpp"

namespace evenflow {

/// A model file, checked but for what only its flow knows; its tensors are in the bytes that it was made
/// from.
struct ModelFile {
  TensorViews file;
  ModelConfig config;
};

/// The model file in these bytes; IoError.
ModelFile view_model(Bytes file, const Site& site);

/// Before anything is built: IoError where the settings, which parse, imply more than a file of so many
/// tensors and values holds.
void check_settings(const ModelConfig& config, int64_t tensors, int64_t values, const Site& site);

/// The model of a file whose dtype is T's; IoError. Tensors are copied.
template <class T>
Trainable<T> restore(const ModelFile& model, const Site& site);

/// The model in the bytes of a file; IoError.
Model load_model(Bytes file, const Site& site);

/// load, with std::bad_alloc where there is no memory.
Model load_file(const Site& site);
Model load_bytes(const void* bytes, size_t size, const Site& site);

}  // namespace evenflow

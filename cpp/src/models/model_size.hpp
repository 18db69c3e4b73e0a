#pragma once

#include "evenflow/config.hpp"

namespace evenflow {

/// Number of a model's tensors and of their values. Both saturate at INT64_MAX.
struct ModelSize {
  int64_t tensors = 0;
  int64_t values = 0;
};

/// A lower bound on the size of a model with these settings. It allocates nothing and does not overflow, so
/// it can check settings before the model is built.
ModelSize least_size(const ModelConfig& config);

}  // namespace evenflow

#pragma once

#include "evenflow/config.hpp"

namespace evenflow {

/// Tensors of a model, and the values in them; INT64_MAX stands for that and for more.
struct ModelSize {
  int64_t tensors = 0;
  int64_t values = 0;
};

/// What a model of these settings has at the least, from the settings alone: nothing is allocated, and no
/// setting overflows.
ModelSize least_size(const ModelConfig& config);

}  // namespace evenflow

#pragma once

#include "evenflow/models.hpp"

namespace evenflow {

/// Settings of a flow for tables with the simplest parts: what a test doesn't set doesn't matter to it.
inline CouplingFlowConfig plain_table() {
  CouplingFlowConfig config;
  config.law = "affine";
  config.net = "mlp";
  config.permutation = "none";
  config.base = "gaussian";
  config.preprocess = "standardize";
  return config;
}

}  // namespace evenflow

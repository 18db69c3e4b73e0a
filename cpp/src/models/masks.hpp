#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evenflow/models.hpp"

// The columns of a table that each coupling changes.

namespace evenflow {

/// Names of the schemes that a mask may be.
std::vector<std::string> mask_schemes();

/// ConfigError unless a mask that lists columns fits the other settings. A single column needs no other to
/// pass, and every coupling changes it, whatever the scheme.
void check_mask(const char* where, const CouplingFlowConfig& config);

/// The columns that a coupling changes, in increasing order. The mask has been checked.
std::vector<int64_t> changed_columns(const CouplingFlowConfig& config, int64_t coupling);

/// Whether couplings have something for nets to read. One column without a context has not: the numbers of
/// the law are parameters then.
bool has_net(const CouplingFlowConfig& config);

}  // namespace evenflow

#pragma once

#include <cstddef>
#include <cstdint>

namespace evenflow::fuzz {

/// Loads the bytes as a model file, and scores and decodes a row if that is one. The errors that are promised
/// are caught; whatever leaves is a finding.
void model_file(const uint8_t* data, size_t size);

/// Reads the bytes as a configuration, and builds its flow if that is a small one.
void configuration(const uint8_t* data, size_t size);

}  // namespace evenflow::fuzz

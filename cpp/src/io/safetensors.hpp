#pragma once

#include "evenflow/io.hpp"
#include "io/file.hpp"

namespace evenflow {

/// A tensor in bytes that it does not own. `data` may have any alignment.
struct TensorView {
  std::string dtype;
  std::vector<int64_t> shape;
  const char* data = nullptr;
  int64_t bytes = 0;
};

struct TensorViews {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

/// Parses a safetensors file with the checks of read_safetensors(). The tensors point into the given bytes.
TensorViews view_safetensors(Bytes file, const Site& site);

/// write_safetensors() for another call, which the site names.
void write_safetensors(const Site& site, const std::vector<TensorRef>& tensors,
                       std::map<std::string, std::string> metadata);

}  // namespace evenflow

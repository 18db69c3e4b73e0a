#pragma once

#include "evenflow/io.hpp"
#include "io/file.hpp"

namespace evenflow {

/// A tensor in bytes that somebody else holds. `data` has any alignment.
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

/// The tensors of a safetensors file, checked as `read_safetensors` says, in the bytes given.
TensorViews view_safetensors(Bytes file, const Site& site);

}  // namespace evenflow

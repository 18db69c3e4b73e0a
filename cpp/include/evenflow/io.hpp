#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "evenflow/export.h"

namespace evenflow {

/// A tensor to write: `dtype` is "F32", "F64" or "I64"; data has the product of `shape` values, row-major.
struct TensorRef {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

/// A tensor as read: the bytes are owned.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

struct TensorFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes a safetensors file: to a temporary name in the same folder, synced, renamed. On any failure
/// IoError is thrown, the temporary file is removed and an existing file keeps its content. A checksum of the
/// data and of the metadata is added.
EVENFLOW_API void write_safetensors(const std::string& path, const std::vector<TensorRef>& tensors,
                                    const std::map<std::string, std::string>& metadata);

/// Reads a safetensors file. Nothing in it is trusted: header length, JSON depth, names, dtypes, shapes,
/// offsets and their products are checked before memory is taken for the data, and the checksum where there
/// is one; IoError says what is wrong. The header, of at most 100 MB, takes up to some forty times its size
/// while it is parsed.
EVENFLOW_API TensorFile read_safetensors(const std::string& path);

}  // namespace evenflow

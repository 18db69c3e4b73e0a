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

/// A tensor that was read. It owns its bytes.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

struct TensorFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes a safetensors file under a temporary name in the same folder, syncs it and renames it. IoError on
/// any failure; the temporary file is then removed, and an existing file keeps its content. Adds a checksum
/// of the data and the metadata.
EVENFLOW_API void write_safetensors(const std::string& path, const std::vector<TensorRef>& tensors,
                                    const std::map<std::string, std::string>& metadata);

/// Reads a safetensors file. The file is not trusted: header length, JSON depth, names, dtypes, shapes,
/// offsets and their products are checked before memory for the data is allocated. A checksum, if there is
/// one, is verified. IoError says what is wrong. The header may have up to 100 MB; parsing needs up to about
/// forty times its size.
EVENFLOW_API TensorFile read_safetensors(const std::string& path);

}  // namespace evenflow

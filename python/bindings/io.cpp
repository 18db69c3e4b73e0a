#include <cstring>

#include "common.hpp"

namespace evenflow::python {
namespace {

const std::pair<const char*, const char*> kDtypes[] = {
    {"F32", "float32"}, {"F64", "float64"}, {"I64", "int64"}};

py::tuple read(const std::string& path) {
  TensorFile file;
  {
    Unlock unlock;
    file = read_safetensors(path);
  }
  py::dict tensors;
  for (const auto& [name, tensor] : file.tensors) {
    const char* dtype = "float32";
    for (const auto& [theirs, ours] : kDtypes) {
      if (tensor.dtype == theirs) dtype = ours;
    }
    py::array array(py::dtype(dtype), std::vector<py::ssize_t>(tensor.shape.begin(), tensor.shape.end()));
    std::memcpy(array.mutable_data(), tensor.bytes.data(), tensor.bytes.size());
    tensors[py::str(name)] = array;
  }
  return py::make_tuple(tensors, file.metadata);
}

void write(const std::string& path, const py::dict& tensors,
           const std::map<std::string, std::string>& metadata) {
  const char* call = "write_safetensors";
  std::vector<TensorRef> refs;
  std::vector<py::array> alive;
  for (const auto& [key, value] : tensors) {
    const py::array array = py::array::ensure(value, py::array::c_style);
    if (!array) fail<py::type_error>(call, "expected numpy arrays, got ", type_name(value));
    const std::string name = key.cast<std::string>(), dtype = py::str(array.dtype()).cast<std::string>();
    const char* stored = nullptr;
    for (const auto& [theirs, ours] : kDtypes) {
      if (dtype == ours) stored = theirs;
    }
    if (!stored) {
      fail<py::type_error>(call, "expected float32, float64 or int64 for ", name, ", got ", dtype);
    }
    refs.push_back(
        {name, stored, std::vector<int64_t>(array.shape(), array.shape() + array.ndim()), array.data()});
    alive.push_back(array);
  }
  Unlock unlock;
  write_safetensors(path, refs, metadata);
}

/// ConfigError or ShapeError unless a model has these settings, with at most as many tensors and values.
void check(const std::string& config, int64_t tensors, int64_t values) {
  const ModelConfig model = parse_config(config);
  if (model.dtype == Dtype::float32) {
    build<float>(model, {tensors, values});
  } else {
    build<double>(model, {tensors, values});
  }
}

}  // namespace

void bind_io(py::module_& m) {
  using namespace py::literals;
  m.def("read_safetensors", &read, "path"_a);
  m.def("write_safetensors", &write, "path"_a, "tensors"_a, "metadata"_a);
  m.def("check_settings", &check, "config"_a, "tensors"_a, "values"_a);
}

}  // namespace evenflow::python

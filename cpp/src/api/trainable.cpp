#include "evenflow/trainable.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "api/model_file.hpp"
#include "evenflow/error.hpp"
#include "evenflow/version.h"
#include "io/json.hpp"
#include "models/settings.hpp"

// docs/format.md describes model files. An optimiser file has tensors moment0, moment1, ... with a value for
// every trained one, and the step count and the rule in its metadata.

namespace evenflow {
namespace {

constexpr const char* kFormat = "1";
constexpr const char* kModelKind = "evenflow model";
constexpr const char* kOptimizerKind = "evenflow optimizer";

template <class T>
const char* stored_dtype() {
  return dtype_of<T>() == Dtype::float32 ? "F32" : "F64";
}

const std::string& metadata(const TensorViews& file, const char* key, const Site& site) {
  const auto item = file.metadata.find(key);
  if (item == file.metadata.end()) reject(site, "expected '", key, "' in the metadata, got none");
  return item->second;
}

TensorViews view(const char* kind, Bytes bytes, const Site& site) {
  TensorViews file = view_safetensors(bytes, site);
  const auto item = file.metadata.find("kind");
  if (item == file.metadata.end() || item->second != kind) {
    reject(site, "expected an ", kind, " file, got ",
           item == file.metadata.end() ? "another kind of file" : json::shown(item->second));
  }
  const std::string& format = metadata(file, "format", site);
  if (format != kFormat) reject(site, "expected format ", kFormat, ", got ", json::shown(format));
  return file;
}

template <class T>
bool all_finite(const T* values, int64_t count) {
  return std::all_of(values, values + count, [](T v) { return std::isfinite(v); });
}

/// "(2, 3)".
std::string list_of(const std::vector<int64_t>& shape) {
  std::string list;
  for (const int64_t size : shape) list += (list.empty() ? "" : ", ") + std::to_string(size);
  return "(" + list + ")";
}

/// Copies a tensor of the file. IoError unless it has this type and shape and only finite values.
template <class T>
void copy_tensor(const TensorViews& file, const std::string& name, const std::vector<int64_t>& shape, T* out,
                 const Site& site) {
  const auto stored = file.tensors.find(name);
  if (stored == file.tensors.end()) reject(site, "expected tensor ", json::shown(name), ", got none");
  const TensorView& tensor = stored->second;
  if (tensor.dtype != stored_dtype<T>() || tensor.shape != shape) {
    reject(site, "expected ", json::shown(name), " as ", stored_dtype<T>(), " ", list_of(shape), ", got ",
           tensor.dtype, " ", list_of(tensor.shape));
  }
  if (tensor.bytes == 0) return;
  std::memcpy(out, tensor.data, static_cast<size_t>(tensor.bytes));
  if (!all_finite(out, tensor.bytes / static_cast<int64_t>(sizeof(T)))) {
    reject(site, "expected finite values in ", json::shown(name), ", got NaN or infinity");
  }
}

/// How many tensors and values of T a file has. A small file can't make its reader build a large model.
template <class T>
ParamLimit size_of(const TensorViews& file) {
  ParamLimit size{static_cast<int64_t>(file.tensors.size()), 0};
  for (const auto& [name, tensor] : file.tensors)
    size.values += tensor.bytes / static_cast<int64_t>(sizeof(T));
  return size;
}

/// IoError unless the file has exactly the layout's tensors. Called before memory for parameters is
/// allocated.
void check_size(const ParamLayout& layout, const TensorViews& file, const Site& site) {
  if (layout.entries().size() != file.tensors.size()) {
    reject(site, "expected ", layout.entries().size(), " tensors for its settings, got ",
           file.tensors.size());
  }
  for (const ParamLayout::Entry& entry : layout.entries()) {
    const auto stored = file.tensors.find(entry.name);
    if (stored == file.tensors.end()) reject(site, "expected tensor ", json::shown(entry.name), ", got none");
    if (stored->second.shape != entry.shape) {
      reject(site, "expected ", json::shown(entry.name), " with ", entry.size, " values, got another shape");
    }
  }
}

}  // namespace

ModelFile view_model(Bytes file, const Site& site) {
  ModelFile out;
  out.file = view(kModelKind, file, site);
  try {
    out.config = parse_config(metadata(out.file, "config", site));
  } catch (const ConfigError& error) {
    reject(site, "expected a valid configuration, got: ", error.what());
  }
  return out;
}

template <class T>
Trainable<T> restore(const ModelFile& model, const Site& site) {
  if (model.config.dtype != dtype_of<T>()) {
    reject(site, "expected a model of ", to_string(dtype_of<T>()), ", got one of ",
           to_string(model.config.dtype));
  }
  try {
    Flow<T> flow = build<T>(model.config, size_of<T>(model.file));
    check_size(*flow.layout(), model.file, site);
    Trainable<T> out(model.config, std::move(flow));
    for (const ParamLayout::Entry& entry : out.flow.layout()->entries()) {
      copy_tensor(model.file, entry.name, entry.shape, out.arena.values() + entry.offset, site);
    }
    out.flow.check_parameters(out.arena);
    return out;
  } catch (const NumericError& error) {
    reject(site, "expected valid parameters, got: ", error.what());
  } catch (const ConfigError& error) {
    reject(site, "expected a valid configuration, got: ", error.what());
  } catch (const ShapeError& error) {
    reject(site, "expected a valid configuration, got: ", error.what());
  }
}

template <class T>
Trainable<T>::Trainable(ModelConfig config_, Flow<T> flow_)
    : config(resolved(std::move(config_))), flow(std::move(flow_)), arena(flow.layout()) {
  config.dtype = dtype_of<T>();
}

template <class T>
Trainable<T>::Trainable(const ModelConfig& config_) : Trainable(config_, build<T>(config_)) {
  flow.init(arena, config.seed);
}

template <class T>
Trainable<T> load_trainable(const std::string& path) {
  const Site site{"load_trainable", path};
  return with_memory(site, "the model", [&] {
    const MappedFile file(site);
    Trainable<T> model = restore<T>(view_model(file.bytes(), site), site);
    file.check_length();
    return model;
  });
}

namespace {

/// A file that no reader accepts must not replace a good one: NumericError if a value is not finite.
template <class T>
void write(const Site& site, const char* kind, const std::vector<TensorRef>& tensors,
           std::map<std::string, std::string> metadata) {
  for (const TensorRef& tensor : tensors) {
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    if (all_finite(static_cast<const T*>(tensor.data), count)) continue;
    fail<NumericError>(site.where, "expected finite values in ", json::shown(tensor.name),
                       ", got NaN or infinity; nothing was written");
  }
  metadata.insert({{"kind", kind}, {"format", kFormat}, {"evenflow", EVENFLOW_VERSION}});
  write_safetensors(site, tensors, std::move(metadata));
}

/// ConfigError unless the settings describe this flow, as far as shapes, prior, classes and tensors tell.
template <class T>
void check_config(const std::string& text, const Flow<T>& flow) {
  const auto compare = [](const char* what, const std::string& expected, const std::string& got) {
    if (expected == got) return;
    fail<ConfigError>("save", "expected settings of the flow that is saved, ", what, expected, ", got ", got);
  };
  const auto [dtype, described] = [&] {
    try {
      const ModelConfig config = parse_config(text);
      return std::pair(config.dtype, build<T>(config));
    } catch (const Error& error) {
      fail<ConfigError>("save", "these are no settings of a model: ", error.what());
    }
  }();
  compare("in ", to_string(dtype_of<T>()), to_string(dtype));
  compare("for samples of ", to_string(flow.sample_shape()), to_string(described.sample_shape()));
  compare("of prior ", to_string(flow.base()), to_string(described.base()));
  compare("with classes: ", std::to_string(flow.classes()), std::to_string(described.classes()));
  const auto &expected = flow.layout()->entries(), &got = described.layout()->entries();
  for (size_t i = 0; i < std::max(expected.size(), got.size()); ++i) {
    const auto tensor = [i](const std::vector<ParamLayout::Entry>& entries) {
      if (i >= entries.size()) return std::string("no other tensor");
      return json::shown(entries[i].name) + " " + list_of(entries[i].shape);
    };
    compare("with ", tensor(expected), tensor(got));
  }
}

}  // namespace

template <class T>
void save(const std::string& path, const Trainable<T>& model) {
  const Site site{"save", path};
  with_memory(site, "the list of tensors", [&] {
    const std::string config = to_json(model.config);
    check_config(config, model.flow);
    std::vector<TensorRef> tensors;
    for (const ParamLayout::Entry& entry : model.flow.layout()->entries()) {
      tensors.push_back({entry.name, stored_dtype<T>(), entry.shape, model.arena.values() + entry.offset});
    }
    write<T>(site, kModelKind, tensors, {{"config", config}});
  });
}

template <class T>
void save_optimizer(const std::string& path, Optimizer<T>& optimizer) {
  const Site site{"save_optimizer", path};
  with_memory(site, "the list of moments", [&] {
    std::vector<TensorRef> tensors;
    for (const SharedBuffer<T>& moment : optimizer.moments()) {
      tensors.push_back(
          {"moment" + std::to_string(tensors.size()), stored_dtype<T>(), {moment.size()}, moment.data()});
    }
    write<T>(site, kOptimizerKind, tensors,
             {{"rule", to_string(optimizer.rule())}, {"steps", std::to_string(optimizer.steps())}});
  });
}

template <class T>
void load_optimizer(const std::string& path, Optimizer<T>& optimizer) {
  const Site site{"load_optimizer", path};
  with_memory(site, "the moments", [&] {
    const MappedFile mapped(site);
    const TensorViews file = view(kOptimizerKind, mapped.bytes(), site);
    const std::string &rule = to_string(optimizer.rule()), &saved = metadata(file, "rule", site);
    if (saved != rule) reject(site, "expected the state of ", rule, ", got ", json::shown(saved));
    const std::string& text = metadata(file, "steps", site);
    int64_t steps = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), steps);
    if (error != std::errc() || end != text.data() + text.size() || steps < 0 || steps > kMostSteps) {
      reject(site, "expected a number of steps, got ", json::shown(text));
    }
    if (file.tensors.size() != optimizer.moments().size()) {
      reject(site, "expected ", optimizer.moments().size(), " moments, got ", file.tensors.size());
    }
    std::vector<std::vector<T>> moments;
    for (const SharedBuffer<T>& moment : optimizer.moments()) {
      moments.emplace_back(static_cast<size_t>(moment.size()));
      copy_tensor(file, "moment" + std::to_string(moments.size() - 1), {moment.size()}, moments.back().data(),
                  site);
    }
    // Second moments are mean squares or maxima of magnitudes, so they can't be negative.
    if (moments.size() > 1 && std::any_of(moments[1].begin(), moments[1].end(), [](T v) { return v < 0; })) {
      reject(site, "expected values >= 0 in 'moment1', got a negative one");
    }
    mapped.check_length();
    for (size_t i = 0; i < moments.size(); ++i) {
      std::copy(moments[i].begin(), moments[i].end(), optimizer.moments()[i].data());
    }
    optimizer.set_steps(steps);
  });
}

template struct Trainable<float>;
template struct Trainable<double>;
template Trainable<float> restore<float>(const ModelFile&, const Site&);
template Trainable<double> restore<double>(const ModelFile&, const Site&);
template Trainable<float> load_trainable<float>(const std::string&);
template Trainable<double> load_trainable<double>(const std::string&);
template void save<float>(const std::string&, const Trainable<float>&);
template void save<double>(const std::string&, const Trainable<double>&);
template void save_optimizer<float>(const std::string&, Optimizer<float>&);
template void save_optimizer<double>(const std::string&, Optimizer<double>&);
template void load_optimizer<float>(const std::string&, Optimizer<float>&);
template void load_optimizer<double>(const std::string&, Optimizer<double>&);

}  // namespace evenflow

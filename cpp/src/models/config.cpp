#include "evenflow/config.hpp"

#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "core/numbers.hpp"
#include "evenflow/error.hpp"
#include "io/json.hpp"
#include "models/settings.hpp"

namespace evenflow {
namespace {

constexpr const char* kWhere = "config";

/// What a file means that omits an optional setting.
template <class T>
T absent(const Limits& limits) {
  if constexpr (std::is_same<T, std::string>::value) return limits.choices.front();
  return T();
}

/// Reads settings from the members of a JSON object. finish() rejects members that no setting has read.
class Reader {
 public:
  static constexpr bool kAll = false;

  Reader(const json::Value& root, ModelConfig& config) : root_(root), dtype_(config.dtype) {
    if (!root.get<json::Object>()) fail<ConfigError>(kWhere, "expected a JSON object, got another type");
    visit_dtype(*this, config);  // first: read(NetDtype) depends on it
  }

  const std::string& text(const char* key) { return get<std::string>(key, "a string"); }
  bool is_table() { return value("shape").get<int64_t>() != nullptr; }

  void shape(Shape& s, bool image, const char*) {
    if (!image) {
      s = {0, 1, 1, whole("shape")};
      return;
    }
    const std::vector<int64_t> sizes = wholes("shape");
    if (sizes.size() != 3) {
      fail<ConfigError>(kWhere, "expected a shape (H, W, C), got ", sizes.size(), " sizes");
    }
    s = {0, sizes[0], sizes[1], sizes[2]};
  }
  void shape(int64_t& columns, const char*) { columns = whole("shape"); }

  template <class T>
  void operator()(const char* key, T& out, const Limits& limits, const char*) {
    if (!limits.optional || root_.find(key)) {
      read(key, out);
    } else {
      out = absent<T>(limits);
    }
  }
  void operator()(const char* key, Dtype& out, const Limits& limits, const char*) {
    expect_choice(kWhere, key, text(key), limits.choices);
    out = text(key) == "float32" ? Dtype::float32 : Dtype::float64;
  }

  void finish() const {
    for (const auto& [key, value] : *root_.get<json::Object>()) {
      if (!taken_.count(key)) fail<ConfigError>(kWhere, "there is no setting ", json::shown(key));
    }
  }

 private:
  const json::Value& value(const char* key) {
    const json::Value* found = root_.find(key);
    if (!found) fail<ConfigError>(kWhere, "expected '", key, "', got none");
    taken_.insert(key);
    return *found;
  }

  template <class T>
  const T& get(const char* key, const char* kind) {
    const T* typed = value(key).get<T>();
    if (!typed) fail<ConfigError>(kWhere, "expected ", kind, " for '", key, "', got another type");
    return *typed;
  }

  int64_t whole(const char* key) { return get<int64_t>(key, "a whole number"); }

  std::vector<int64_t> wholes(const char* key) { return wholes(key, value(key)); }
  static std::vector<int64_t> wholes(const char* key, const json::Value& list) {
    const json::Array* items = list.get<json::Array>();
    if (!items) fail<ConfigError>(kWhere, "expected a list for '", key, "', got another type");
    std::vector<int64_t> out;
    for (const json::Value& item : *items) {
      const int64_t* number = item.get<int64_t>();
      if (!number) fail<ConfigError>(kWhere, "expected whole numbers in '", key, "', got another type");
      out.push_back(*number);
    }
    return out;
  }

  void read(const char* key, std::string& out) { out = text(key); }
  void read(const char* key, TableMask& out) {
    if (value(key).get<std::string>()) {
      out = text(key);
      if (out.scheme.empty()) fail<ConfigError>(kWhere, "expected a name for '", key, "', got an empty one");
      return;
    }
    std::vector<std::vector<int64_t>> lists;
    for (const json::Value& item : get<json::Array>(key, "a name or a list for every coupling"))
      lists.push_back(wholes(key, item));
    out = lists;
  }
  void read(const char* key, bool& out) { out = get<bool>(key, "true or false"); }
  void read(const char* key, int64_t& out) { out = whole(key); }
  void read(const char* key, double& out) { out = number(key, value(key)); }
  void read(const char* key, std::vector<int64_t>& out) { out = wholes(key); }

  void read(const char* key, uint64_t& out) {
    if (const uint64_t* large = value(key).get<uint64_t>()) {
      out = *large;
      return;
    }
    const int64_t small = whole(key);
    expect_in(kWhere, text_of('\'', key, '\'').c_str(), small, 0, std::numeric_limits<int64_t>::max());
    out = static_cast<uint64_t>(small);
  }

  /// Reads pairs of numbers. null stands for an infinite bound.
  void read(const char* key, std::vector<Bounds>& out) {
    const json::Array& items = get<json::Array>(key, "a list");
    if (items.empty()) fail<ConfigError>(kWhere, "expected pairs in '", key, "', got none");
    for (const json::Value& item : items) {
      const json::Array* pair = item.get<json::Array>();
      if (!pair || pair->size() != 2)
        fail<ConfigError>(kWhere, "expected pairs in '", key, "', got another value");
      out.emplace_back();
      if (!(*pair)[0].get<std::nullptr_t>()) out.back().low = number(key, (*pair)[0]);
      if (!(*pair)[1].get<std::nullptr_t>()) out.back().high = number(key, (*pair)[1]);
    }
  }

  void read(const char* key, NetDtype& out) {
    const std::string& name = text(key);
    if (name == "bfloat16" && dtype_ == Dtype::float32) {
      out = NetDtype::bfloat16;
    } else if (name != "float32" && name != to_string(dtype_)) {
      fail<ConfigError>(kWhere, "expected ", key, " float32 or, in a model of float32, bfloat16; got ",
                        json::shown(name), " in a model of ", to_string(dtype_));
    }
  }

  static double number(const char* key, const json::Value& item) {
    if (const int64_t* whole = item.get<int64_t>()) return static_cast<double>(*whole);
    if (const uint64_t* large = item.get<uint64_t>()) return static_cast<double>(*large);
    if (const double* real = item.get<double>()) return *real;
    fail<ConfigError>(kWhere, "expected a number for '", key, "', got another type");
  }

  const json::Value& root_;
  const Dtype& dtype_;
  std::set<std::string_view> taken_;
};

// json_of() formats values as the Python package does.

std::string json_of(bool value) {
  return value ? "true" : "false";
}
std::string json_of(int64_t value) {
  return std::to_string(value);
}
std::string json_of(uint64_t value) {
  return std::to_string(value);
}
/// With a point or an exponent, since a text without either is an integer.
std::string json_of(double value) {
  const std::string text = exact_text(value);
  return text.find_first_of(".e") == text.npos ? text + ".0" : text;
}
std::string json_of(const std::string& value) {
  return json::quote(value, kWhere, "the configuration");
}
std::string json_of(const char* value) {
  return json_of(std::string(value));
}
std::string json_of(Dtype value) {
  return json_of(to_string(value));
}
/// "float32" stands for the model's own arithmetic, even in a float64 model.
std::string json_of(NetDtype value) {
  return json_of(value == NetDtype::bfloat16 ? "bfloat16" : "float32");
}
std::string json_of(const Bounds& value) {
  const auto end = [](double at) { return std::isfinite(at) ? json_of(at) : "null"; };
  return "[" + end(value.low) + ", " + end(value.high) + "]";
}
template <class T>
std::string json_of(const std::vector<T>& values) {
  std::string list;
  for (const T& value : values) list += (list.empty() ? "" : ", ") + json_of(value);
  return "[" + list + "]";
}

std::string json_of(const TableMask& mask) {
  return mask.scheme.empty() ? json_of(mask.columns) : json_of(mask.scheme);
}

/// Writes a JSON object, with members in the order in which they are added.
class Writer {
 public:
  static constexpr bool kAll = false;

  void shape(const Shape& s, bool image, const char*) {
    if (image) {
      add("shape", std::vector<int64_t>{s.h, s.w, s.c});
    } else {
      add("shape", s.c);
    }
  }
  void shape(int64_t columns, const char*) { add("shape", columns); }

  template <class T>
  void operator()(const char* key, const T& value, const Limits& limits, const char*) {
    if (!limits.optional || !is_absent(value, limits)) add(key, value);
  }

  template <class T>
  void add(const char* key, const T& value) {
    add_text(key, json_of(value));
  }
  void add_text(const char* key, const std::string& value) {
    out_ += (out_.empty() ? "{\"" : ", \"") + std::string(key) + "\": " + value;
  }
  std::string text() const { return out_ + "}"; }

 private:
  template <class T>
  static bool is_absent(const T& value, const Limits& limits) {
    return value == absent<T>(limits);
  }
  template <class T>
  static bool is_absent(const std::vector<T>& values, const Limits&) {
    return values.empty();
  }
  static bool is_absent(const TableMask&, const Limits&) { return false; }

  std::string out_;
};

/// Lists the settings of one model for settings_as_json().
class Describer {
 public:
  static constexpr bool kAll = true;

  Describer(std::string& list, const char* model, const char* kind)
      : list_(list), model_(model), kind_(kind) {}

  void shape(const Shape&, bool, const char* help) { add("shape", "shape", {}, "null", help); }
  void shape(int64_t, const char* help) { add("shape", "shape", {}, "null", help); }

  template <class T>
  void operator()(const char* name, const T& value, const Limits& limits, const char* help) {
    add(name, type_of(value), limits, json_of(value), help);
  }
  void operator()(const char* name, const std::vector<Bounds>&, const Limits& limits, const char* help) {
    add(name, "bounds", limits, "null", help);
  }

 private:
  static const char* type_of(bool) { return "bool"; }
  static const char* type_of(int64_t) { return "int"; }
  static const char* type_of(uint64_t) { return "seed"; }
  static const char* type_of(double) { return "float"; }
  static const char* type_of(const std::vector<int64_t>&) { return "ints"; }
  static const char* type_of(const TableMask&) { return "mask"; }
  template <class T>
  static const char* type_of(const T&) {
    return "str";
  }

  void add(const char* name, const std::string& type, const Limits& limits, const std::string& standard,
           const char* help) {
    const bool number = type == "int" || type == "ints" || type == "float" || type == "seed";
    Writer out;
    out.add("model", model_);
    out.add("kind", kind_);
    out.add("name", name);
    out.add("type", type);
    out.add_text("default", standard);
    out.add_text("low", number ? json_of(limits.low) : "null");
    out.add_text("high", number && limits.high < Limits::kNone ? json_of(limits.high) : "null");
    out.add_text("choices", limits.choices.empty() ? "null" : json_of(limits.choices));
    out.add("optional", limits.optional);
    out.add("laws", limits.laws);
    out.add("help", help);
    list_ += (list_.empty() ? "" : ",\n ") + out.text();
  }

  std::string& list_;
  const char *model_, *kind_;
};

}  // namespace

const char* to_string(Dtype dtype) {
  return dtype == Dtype::float32 ? "float32" : "float64";
}

std::string settings_as_json() {
  std::string list;
  ModelConfig common;
  const auto describe = [&](auto settings, const char* kind) {
    Describer describer(list, name_of(settings), kind);
    visit_settings(describer, settings, common);
  };
  NiceConfig image;
  image.pixel = true;
  describe(GlowConfig(), "image");
  describe(RealNvpConfig(), "image");
  describe(CouplingFlowConfig(), "table");
  describe(image, "image");
  describe(NiceConfig(), "table");
  return "[" + list + "]";
}

ModelConfig parse_config(const std::string& text) {
  json::Value root;
  try {
    root = json::parse(text, kWhere, "the configuration");
  } catch (const IoError& error) {
    throw ConfigError(error.what());
  }
  ModelConfig config;
  Reader in(root, config);
  const std::string& model = in.text("model");
  const auto read = [&](auto settings) {
    visit_settings(in, settings, config);
    config.model = settings;
  };
  if (model == "Glow") {
    read(GlowConfig());
  } else if (model == "NICE") {
    NiceConfig nice;
    nice.pixel = !in.is_table();
    read(nice);
  } else if (model == "CouplingFlow") {
    read(CouplingFlowConfig());
  } else if (model == "RealNVP") {
    read(RealNvpConfig());
  } else {
    fail<ConfigError>(kWhere, "expected model Glow, RealNVP, CouplingFlow or NICE, got ", json::shown(model));
  }
  in.finish();
  try {
    check(kWhere, config);
  } catch (const ShapeError& error) {
    throw ConfigError(error.what());
  }
  return resolved(std::move(config));
}

std::string to_json(const ModelConfig& config) {
  ModelConfig copy = config;
  Writer out;
  std::visit(
      [&](auto& settings) {
        out.add("model", name_of(settings));
        visit_settings(out, settings, copy);
      },
      copy.model);
  return out.text();
}

template <class T>
Flow<T> build(const ModelConfig& config, const ParamLimit& limit) {
  if (const auto* settings = std::get_if<NiceConfig>(&config.model)) return nice<T>(*settings, limit);
  if (const auto* settings = std::get_if<GlowConfig>(&config.model)) return glow<T>(*settings, limit);
  if (const auto* settings = std::get_if<CouplingFlowConfig>(&config.model))
    return coupling_flow<T>(*settings, limit);
  return real_nvp<T>(std::get<RealNvpConfig>(config.model), limit);
}

template Flow<float> build<float>(const ModelConfig&, const ParamLimit&);
template Flow<double> build<double>(const ModelConfig&, const ParamLimit&);

}  // namespace evenflow

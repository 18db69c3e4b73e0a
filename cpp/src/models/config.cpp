#include "evenflow/config.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "evenflow/error.hpp"
#include "io/json.hpp"
#include "models/options.hpp"

namespace evenflow {
namespace {

constexpr const char* kWhere = "config";

/// Takes the members of a JSON object one by one; what is left over is an error.
class Reader {
 public:
  explicit Reader(const json::Value& root) : root_(root) {
    if (!root.get<json::Object>()) fail<ConfigError>(kWhere, "expected a JSON object, got another type");
  }

  const json::Value& value(const char* key) {
    const json::Value* found = root_.find(key);
    if (!found) fail<ConfigError>(kWhere, "expected '", key, "', got none");
    taken_.insert(key);
    return *found;
  }

  template <class T>
  const T& get(const char* key, const char* kind) {
    const T* found = value(key).get<T>();
    if (!found) fail<ConfigError>(kWhere, "expected ", kind, " for '", key, "', got another type");
    return *found;
  }

  const std::string& text(const char* key) { return get<std::string>(key, "a string"); }
  bool flag(const char* key) { return get<bool>(key, "true or false"); }
  int64_t whole(const char* key) { return get<int64_t>(key, "a whole number"); }

  double number(const char* key) { return number(key, value(key)); }

  uint64_t seed() {
    if (const uint64_t* large = value("seed").get<uint64_t>()) return *large;
    const int64_t seed = whole("seed");
    expect_in(kWhere, "'seed'", seed, 0, std::numeric_limits<int64_t>::max());
    return static_cast<uint64_t>(seed);
  }

  std::vector<int64_t> sizes(const char* key) {
    std::vector<int64_t> out;
    for (const json::Value& item : get<json::Array>(key, "a list")) {
      const int64_t* size = item.get<int64_t>();
      if (!size) fail<ConfigError>(kWhere, "expected whole numbers in '", key, "', got another type");
      out.push_back(*size);
    }
    return out;
  }

  /// Pairs of numbers, of which null stands for an open end.
  std::vector<Bounds> bounds(const char* key) {
    const json::Array& items = get<json::Array>(key, "a list");
    if (items.empty()) fail<ConfigError>(kWhere, "expected pairs in '", key, "', got none");
    std::vector<Bounds> out;
    for (const json::Value& item : items) {
      const json::Array* pair = item.get<json::Array>();
      if (!pair || pair->size() != 2)
        fail<ConfigError>(kWhere, "expected pairs in '", key, "', got another value");
      out.emplace_back();
      if (!(*pair)[0].get<std::nullptr_t>()) out.back().low = number(key, (*pair)[0]);
      if (!(*pair)[1].get<std::nullptr_t>()) out.back().high = number(key, (*pair)[1]);
    }
    return out;
  }

  bool has(const char* key) const { return root_.find(key) != nullptr; }
  bool is_table() { return value("shape").get<int64_t>() != nullptr; }

  Shape image() {
    const std::vector<int64_t> s = sizes("shape");
    if (s.size() != 3) fail<ConfigError>(kWhere, "expected a shape (H, W, C), got ", s.size(), " sizes");
    return {0, s[0], s[1], s[2]};
  }

  NetDtype conditioner(Dtype dtype) {
    const std::string& name = text("conditioner_dtype");
    if (name == "float32" || name == to_string(dtype)) return NetDtype::same;
    if (name == "bfloat16" && dtype == Dtype::float32) return NetDtype::bfloat16;
    fail<ConfigError>(kWhere, "expected conditioner_dtype float32 or, in a model of float32, bfloat16; got ",
                      json::shown(name), " in a model of ", to_string(dtype));
  }

  void finish() const {
    for (const auto& [key, value] : *root_.get<json::Object>()) {
      if (!taken_.count(key)) fail<ConfigError>(kWhere, "expected no other settings, got ", json::shown(key));
    }
  }

 private:
  static double number(const char* key, const json::Value& found) {
    if (const int64_t* whole = found.get<int64_t>()) return static_cast<double>(*whole);
    if (const uint64_t* large = found.get<uint64_t>()) return static_cast<double>(*large);
    if (const double* real = found.get<double>()) return *real;
    fail<ConfigError>(kWhere, "expected a number for '", key, "', got another type");
  }

  const json::Value& root_;
  std::set<std::string_view> taken_;
};

GlowConfig read_glow(Reader& in, Dtype dtype) {
  GlowConfig c;
  c.shape = in.image();
  c.levels = in.whole("levels");
  c.steps = in.whole("steps");
  c.hidden = in.whole("hidden");
  c.coupling = in.text("coupling");
  c.permutation = in.text("permutation");
  c.learn_top = in.flag("learn_top");
  c.classes = in.whole("classes");
  c.class_weight = in.number("class_weight");
  c.bits = in.whole("bits");
  c.conditioner = in.conditioner(dtype);
  if (in.has("context")) c.context = in.whole("context");
  return c;
}

RealNvpImageConfig read_real_nvp_image(Reader& in) {
  RealNvpImageConfig c;
  c.shape = in.image();
  c.scales = in.whole("scales");
  c.base_dim = in.whole("base_dim");
  c.residual_blocks = in.whole("residual_blocks");
  c.bottleneck = in.flag("bottleneck");
  c.skip = in.flag("skip");
  c.batch_norm = in.flag("batch_norm");
  c.weight_norm = in.flag("weight_norm");
  c.coupling = in.text("coupling");
  c.recursion = in.whole("recursion");
  c.bits = in.whole("bits");
  if (in.has("context")) c.context = in.whole("context");
  return c;
}

RealNvpTableConfig read_real_nvp_table(Reader& in, Dtype dtype) {
  RealNvpTableConfig c;
  c.dims = in.whole("shape");
  c.couplings = in.whole("couplings");
  c.hidden = in.sizes("hidden");
  c.coupling = in.text("coupling");
  c.mask = in.text("mask");
  c.permutation = in.text("permutation");
  c.preprocess = in.text("preprocess");
  c.batch_norm = in.flag("batch_norm");
  c.actnorm = in.flag("actnorm");
  c.prior = in.text("prior");
  c.conditioner = in.conditioner(dtype);
  if (in.has("context")) c.context = in.whole("context");
  if (in.has("bounds")) c.bounds = in.bounds("bounds");
  return c;
}

NiceConfig read_nice(Reader& in, Dtype dtype) {
  NiceConfig c;
  if (in.is_table()) {
    c.shape = {0, 1, 1, in.whole("shape")};
  } else {
    c.shape = in.image();
    c.pixel = c.shape.h == 1 && c.shape.w == 1;
    c.bits = in.whole("bits");
  }
  c.couplings = in.whole("couplings");
  c.hidden = in.sizes("hidden");
  c.prior = in.text("prior");
  c.order = in.text("order");
  c.preprocess = in.text("preprocess");
  c.conditioner = in.conditioner(dtype);
  if (in.has("bounds")) c.bounds = in.bounds("bounds");
  return c;
}

/// The shortest text that is read as the same number, as Python writes it: 0.0, 100000.0, 1e+16, 1e-05.
std::string text_of_number(double value) {
  std::array<char, 32> text;
  const auto written = [&](std::chars_format format) {
    return std::string(text.data(), std::to_chars(text.data(), text.data() + text.size(), value, format).ptr);
  };
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-4 || size >= 1e16)) return written(std::chars_format::scientific);
  const std::string plain = written(std::chars_format::fixed);
  return plain.find('.') == plain.npos ? plain + ".0" : plain;
}

/// Members of a JSON object, in the order in which they are added: the Python package's, see models.py.
class Writer {
 public:
  void add(const char* key, const std::string& value) { raw(key, json::quote(value, kWhere, key)); }
  void add(const char* key, const char* value) { add(key, std::string(value)); }
  void add(const char* key, bool value) { raw(key, value ? "true" : "false"); }
  void add(const char* key, int64_t value) { raw(key, std::to_string(value)); }
  void add(const char* key, uint64_t value) { raw(key, std::to_string(value)); }
  void add(const char* key, double value) { raw(key, text_of_number(value)); }
  void add(const char* key, const std::vector<int64_t>& values) {
    std::string list;
    for (const int64_t value : values) list += (list.empty() ? "" : ", ") + std::to_string(value);
    raw(key, "[" + list + "]");
  }
  void add(const char* key, const std::vector<Bounds>& bounds) {
    const auto end = [](double value) { return std::isfinite(value) ? text_of_number(value) : "null"; };
    std::string list;
    for (const Bounds& b : bounds)
      list += (list.empty() ? "[" : ", [") + end(b.low) + ", " + end(b.high) + "]";
    if (!bounds.empty()) raw(key, "[" + list + "]");
  }
  void add(const char* key, const Shape& s) { add(key, std::vector<int64_t>{s.h, s.w, s.c}); }
  void add(NetDtype net) {
    // "float32" stands for the model's own arithmetic, in a model of float64 too.
    add("conditioner_dtype", net == NetDtype::bfloat16 ? "bfloat16" : "float32");
  }
  std::string text() const { return out_ + "}"; }

 private:
  void raw(const char* key, const std::string& value) {
    out_ += (out_.empty() ? "{\"" : ", \"") + std::string(key) + "\": " + value;
  }
  std::string out_;
};

void write(Writer& out, const GlowConfig& c, uint64_t seed) {
  out.add("model", "Glow");
  out.add("shape", c.shape);
  out.add("levels", c.levels);
  out.add("steps", c.steps);
  out.add("hidden", c.hidden);
  out.add("coupling", c.coupling);
  out.add("permutation", c.permutation);
  out.add("learn_top", c.learn_top);
  out.add("classes", c.classes);
  out.add("class_weight", c.class_weight);
  out.add("bits", c.bits);
  out.add("seed", seed);
  out.add(c.conditioner);
  if (c.context) out.add("context", c.context);
}

void write(Writer& out, const RealNvpImageConfig& c, uint64_t seed) {
  out.add("model", "RealNVP");
  out.add("shape", c.shape);
  out.add("scales", c.scales);
  out.add("base_dim", c.base_dim);
  out.add("residual_blocks", c.residual_blocks);
  out.add("bottleneck", c.bottleneck);
  out.add("skip", c.skip);
  out.add("batch_norm", c.batch_norm);
  out.add("weight_norm", c.weight_norm);
  out.add("recursion", c.recursion);
  out.add("bits", c.bits);
  if (c.context) out.add("context", c.context);
  out.add("coupling", c.coupling);
  out.add("seed", seed);
}

void write(Writer& out, const RealNvpTableConfig& c, uint64_t seed) {
  out.add("model", "RealNVP");
  out.add("shape", c.dims);
  out.add("couplings", c.couplings);
  out.add("hidden", c.hidden);
  out.add("mask", c.mask);
  out.add("permutation", c.permutation);
  out.add("preprocess", c.preprocess);
  out.add("batch_norm", c.batch_norm);
  out.add("actnorm", c.actnorm);
  out.add("prior", c.prior);
  out.add(c.conditioner);
  if (c.context) out.add("context", c.context);
  out.add("bounds", c.bounds);
  out.add("coupling", c.coupling);
  out.add("seed", seed);
}

void write(Writer& out, const NiceConfig& c, uint64_t seed) {
  out.add("model", "NICE");
  if (c.is_image()) {
    out.add("shape", c.shape);
  } else {
    out.add("shape", c.shape.c);
  }
  out.add("couplings", c.couplings);
  out.add("hidden", c.hidden);
  out.add("prior", c.prior);
  out.add("order", c.order);
  out.add("preprocess", c.preprocess);
  out.add("seed", seed);
  out.add(c.conditioner);
  out.add("bounds", c.bounds);
  if (c.is_image()) out.add("bits", c.bits);
}

template <class T>
Flow<T> make(const GlowConfig& c) {
  return glow<T>(c);
}
template <class T>
Flow<T> make(const RealNvpImageConfig& c) {
  return real_nvp<T>(c);
}
template <class T>
Flow<T> make(const RealNvpTableConfig& c) {
  return real_nvp<T>(c);
}
template <class T>
Flow<T> make(const NiceConfig& c) {
  return nice<T>(c);
}

}  // namespace

const char* to_string(Dtype dtype) {
  return dtype == Dtype::float32 ? "float32" : "float64";
}

ModelConfig parse_config(const std::string& text) {
  json::Value root;
  try {
    root = json::parse(text, kWhere, "the configuration");
  } catch (const IoError& error) {
    throw ConfigError(error.what());
  }
  Reader in(root);
  ModelConfig config;
  const std::string &model = in.text("model"), &dtype = in.text("dtype");
  if (dtype != "float32" && dtype != "float64") {
    fail<ConfigError>(kWhere, "expected dtype float32 or float64, got ", json::shown(dtype));
  }
  config.dtype = dtype == "float32" ? Dtype::float32 : Dtype::float64;
  config.seed = in.seed();
  if (model == "Glow") {
    config.model = read_glow(in, config.dtype);
  } else if (model == "NICE") {
    config.model = read_nice(in, config.dtype);
  } else if (model == "RealNVP") {
    if (in.is_table()) {
      config.model = read_real_nvp_table(in, config.dtype);
    } else {
      config.model = read_real_nvp_image(in);
    }
  } else {
    fail<ConfigError>(kWhere, "expected model Glow, RealNVP or NICE, got ", json::shown(model));
  }
  in.finish();
  try {
    std::visit([](const auto& settings) { expect_ranges(kWhere, settings); }, config.model);
  } catch (const ShapeError& error) {
    throw ConfigError(error.what());
  }
  return config;
}

std::string to_json(const ModelConfig& config) {
  Writer out;
  std::visit([&](const auto& model) { write(out, model, config.seed); }, config.model);
  out.add("dtype", to_string(config.dtype));
  return out.text();
}

template <class T>
Flow<T> build(const ModelConfig& config) {
  return std::visit([](const auto& model) { return make<T>(model); }, config.model);
}

template Flow<float> build<float>(const ModelConfig&);
template Flow<double> build<double>(const ModelConfig&);

}  // namespace evenflow

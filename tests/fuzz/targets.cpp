#include "targets.hpp"

#include <optional>
#include <stdexcept>

#include "api/model_file.hpp"
#include "evenflow/error.hpp"
#include "evenflow/model.hpp"

namespace evenflow::fuzz {
namespace {

// Larger models are as valid, but take an input's time for arithmetic.
constexpr int64_t kMaxDims = 1 << 12, kMaxTensors = 1 << 12, kMaxValues = 1 << 20;

void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

/// A file may hold a model that is not initialised, or whose values overflow: both are typed errors.
template <class T>
void use(const Model& model) {
  Context ctx("cpu", 1);
  const std::vector<T> x(static_cast<size_t>(model.dims()), T(0.5));
  std::vector<T> z(x.size()), back(x.size()), gradient(x.size());
  double log_prob = 0;
  const int32_t label = 0;
  CallOptions options;
  if (model.classes() > 0) options.labels = &label;
  const std::vector<float> context(static_cast<size_t>(model.context()), 0.5f);
  if (model.context() > 0) options.context = context.data();
  try {
    model.log_prob(ctx, x.data(), 1, &log_prob, options);
    model.encode(ctx, x.data(), 1, z.data(), options);
    model.decode(ctx, z.data(), 1, back.data(), options);
    model.sample_and_log_prob(ctx, 1, back.data(), &log_prob, options);
    model.log_prob_and_grad(ctx, x.data(), 1, &log_prob, gradient.data(), nullptr, options);
  } catch (const NumericError&) {
  } catch (const ConfigError&) {
  }
}

template <class T>
void build_small(const ModelConfig& config) {
  try {
    build<T>(config, {kMaxTensors, kMaxValues});
  } catch (const ConfigError&) {
  } catch (const ShapeError&) {
  }
}

}  // namespace

void model_file(const uint8_t* data, size_t size) {
  std::optional<Model> model;
  try {
    model.emplace(
        load_model({reinterpret_cast<const char*>(data), static_cast<int64_t>(size)}, {"load", "input"}));
  } catch (const IoError&) {
    return;
  }
  if (model->dims() > kMaxDims || model->context() > kMaxDims) return;
  if (model->dtype() == Dtype::float32) {
    use<float>(*model);
  } else {
    use<double>(*model);
  }
}

void configuration(const uint8_t* data, size_t size) {
  ModelConfig config;
  try {
    config = parse_config(std::string(reinterpret_cast<const char*>(data), size));
  } catch (const ConfigError&) {
    return;
  }
  const std::string text = to_json(config);
  require(to_json(parse_config(text)) == text, "a configuration that is read again as another");
  if (config.dtype == Dtype::float32) {
    build_small<float>(config);
  } else {
    build_small<double>(config);
  }
}

}  // namespace evenflow::fuzz

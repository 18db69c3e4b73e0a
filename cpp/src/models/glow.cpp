#include "models/options.hpp"

namespace evenflow {
namespace {

constexpr const char* kGlow = "glow";

template <class T>
std::unique_ptr<Layer<T>> permutation_of(const std::string& kind, Shape in) {
  if (kind == "lu") return lu_conv1x1<T>(in);
  if (kind == "plain") return plain_conv1x1<T>(in);
  return permutation<T>(in, order_of(kind));
}

/// One step of flow: actnorm, permutation, coupling.
template <class T>
void add_step(Flow<T>& flow, const std::string& prefix, const GlowConfig& config) {
  const Shape shape = flow.output_shape();
  flow.add(prefix + ".actnorm", actnorm<T>(shape));
  flow.add(prefix + ".permutation", permutation_of<T>(config.permutation, shape));
  CouplingOptions options;
  options.law = law_of(config);
  options.interleaved = true;
  const Shape input = shape.with_channels(shape.c / 2 + config.context);
  auto net = glow_net<T>(input, shape.c / 2 * numbers_of_law(options.law), config.hidden, config.conditioner);
  flow.add(prefix + ".coupling", coupling<T>(shape, Mask::second_half, std::move(net), options));
}

template <class T>
void add_split(Flow<T>& flow, const std::string& name, const GlowConfig& config) {
  const Shape shape = flow.output_shape();
  CouplingOptions options;
  options.law.name = config.coupling == "bounded" ? "affine" : "gaussian";
  options.interleaved = true;
  flow.add(name, coupling<T>(shape, Mask::second_half,
                             zero_conv<T>(shape.with_channels(shape.c / 2), shape.c), options));
  flow.factor_out(shape.c / 2);
}

}  // namespace

template <class T>
Flow<T> glow(const GlowConfig& config, const ParamLimit& limit) {
  check(kGlow, {config});
  if (config.levels > kMaxLevels || config.shape.h % (int64_t{1} << config.levels) ||
      config.shape.w % (int64_t{1} << config.levels)) {
    fail<ShapeError>(kGlow, "expected height and width divisible by 2^", config.levels, ", got ",
                     config.shape.h, " x ", config.shape.w);
  }
  if (config.class_weight > 0 && config.classes < 2) {
    fail<ConfigError>(kGlow, "expected classes > 0, two or more, with class_weight > 0, got classes ",
                      config.classes);
  }
  if (config.context && config.classes) {
    fail<ConfigError>(kGlow, "expected classes or a context, got ", config.classes,
                      " classes and a context of ", config.context,
                      "; give the class as a number of the context, 0 or 1 for each");
  }
  Flow<T> flow(config.shape, Base::gaussian, limit);
  flow.set_context(config.context);
  const double bins = std::ldexp(1.0, static_cast<int>(config.bits));
  flow.add("rescale", rescale<T>(flow.output_shape(), bins / 2, bins));
  for (int64_t l = 0; l < config.levels; ++l) {
    const std::string level = "level" + std::to_string(l);
    flow.add(level + ".squeeze", squeeze<T>(flow.output_shape(), SqueezeOrder::raster));
    for (int64_t k = 0; k < config.steps; ++k) add_step(flow, level + ".step" + std::to_string(k), config);
    if (l + 1 < config.levels) add_split(flow, level + ".split", config);
  }
  if (config.class_weight > 0) flow.classify(config.classes, config.class_weight);
  if (config.learn_top || config.classes > 0) {
    flow.add("top", top_prior<T>(flow.output_shape(), config.learn_top, config.classes));
  }
  flow.set_classes(config.classes);
  flow.finalize();
  return flow;
}

template Flow<float> glow<float>(const GlowConfig&, const ParamLimit&);
template Flow<double> glow<double>(const GlowConfig&, const ParamLimit&);

}  // namespace evenflow

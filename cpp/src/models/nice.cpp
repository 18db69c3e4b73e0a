#include "models/options.hpp"

namespace evenflow {
namespace {

constexpr const char* kNice = "nice";

}  // namespace

template <class T>
Flow<T> nice(const NiceConfig& config, const ParamLimit& limit) {
  check(kNice, {config});
  if (config.is_image() && !config.bounds.empty()) {
    fail<ConfigError>(kNice, "bounds are for the columns of a table, and this is an image");
  }
  Flow<T> flow(config.shape, base_of(config.prior), limit);
  if (config.shape.pixels_per_sample() > 1) {  // levels of one-pixel images are not scaled
    flow.add("rescale", rescale<T>(flow.output_shape(), 0, std::ldexp(1.0, static_cast<int>(config.bits))));
    flow.add("flatten", flatten<T>(flow.output_shape()));
  }
  if (!config.bounds.empty()) flow.add("bounds", unbound<T>(flow.output_shape(), config.bounds));
  if (auto layer = preprocess_of<T>(config.preprocess, flow.output_shape())) {
    flow.add("preprocess", std::move(layer));
  }
  if (config.permutation != "none") {
    flow.add("order", permutation<T>(flow.output_shape(), order_of(config.permutation)));
  }
  const Shape shape = flow.output_shape();
  // The reversal after each coupling exchanges the halves, so every coupling changes the second half
  // (official code).
  const MaskSizes sizes = mask_sizes(Mask::second_half, shape.c);
  CouplingOptions options;
  options.law.name = "additive";
  for (int64_t i = 0; i < config.couplings; ++i) {
    auto net = mlp<T>(shape.with_channels(sizes.pass), sizes.change, config.hidden, MlpInit::nice,
                      config.conditioner);
    flow.add("coupling" + std::to_string(i), coupling<T>(shape, Mask::second_half, std::move(net), options));
    flow.add("reverse" + std::to_string(i), permutation<T>(shape, Order::reverse));
  }
  flow.add("scaling", scaling<T>(shape));
  flow.finalize();
  return flow;
}

template Flow<float> nice<float>(const NiceConfig&, const ParamLimit&);
template Flow<double> nice<double>(const NiceConfig&, const ParamLimit&);

}  // namespace evenflow

#include "models/options.hpp"

namespace evenflow {
namespace {

constexpr const char* kRealNvp = "real_nvp";

/// Builds the image model: couplings, each followed by batch norm of the part that it changed.
template <class T>
class ImageBuilder {
 public:
  ImageBuilder(const RealNvpConfig& config, Flow<T>& flow) : config_(config), flow_(flow) {}

  /// last: this is the last coupling of its group, which is affine even in an additive model.
  void coupling(const std::string& name, const std::string& norm, Mask mask, int64_t width, bool last) {
    const Shape shape = flow_.output_shape();
    const MaskSizes sizes = mask_sizes(mask, shape.c);
    ResNetConfig net;
    net.width = width;
    net.blocks = config_.residual_blocks;
    net.bottleneck = config_.bottleneck;
    net.skip = config_.skip;
    net.batch_norm = config_.batch_norm;
    net.weight_norm = config_.weight_norm;
    net.checkerboard = mask == Mask::checkerboard0 ? 1 : mask == Mask::checkerboard1 ? 0 : -1;
    net.context = config_.context;
    const Shape input = shape.with_channels(sizes.pass + config_.context);
    CouplingOptions options;
    options.law = law_of(config_);
    if (last) options.law.name = "real_nvp";
    // As in the official code, checkerboard couplings start at the identity, and weight decay applies only to
    // their gain.
    const bool checkerboard = is_checkerboard(mask);
    options.shared = {{checkerboard ? 0.0 : 1.0, checkerboard}, {0, false, !config_.batch_norm}};
    auto conditioner = res_net<T>(input, sizes.change * numbers_of_law(options.law), net);
    flow_.add(name, evenflow::coupling<T>(shape, mask, std::move(conditioner), options));
    if (config_.batch_norm) flow_.add(norm, batch_norm<T>(shape, mask));
  }

  void scale(int64_t s, bool last_scale) {
    const std::string prefix = "scale" + std::to_string(s) + ".";
    const int64_t channels = flow_.output_shape().c;
    const int64_t width = config_.recursion >= 4 ? config_.base_dim : config_.base_dim << s;
    for (int i = 0; i < (last_scale ? 4 : 3); ++i) {
      const std::string index = std::to_string(i);
      coupling(prefix + "checkerboard" + index, prefix + "checkerboard_norm" + index,
               i % 2 ? Mask::checkerboard0 : Mask::checkerboard1, width, i >= 2);
    }
    if (last_scale) return;
    flow_.add(prefix + "squeeze", squeeze<T>(flow_.output_shape(), SqueezeOrder::raster));
    for (int i = 0; i < 3; ++i) {
      const std::string index = std::to_string(i);
      coupling(prefix + "channel" + index, prefix + "channel_norm" + index,
               i % 2 ? Mask::first_half : Mask::second_half, 2 * width, i == 2);
    }
    flow_.add(prefix + "unsqueeze", unsqueeze<T>(flow_.output_shape(), SqueezeOrder::raster));
    flow_.add(prefix + "squeeze_ordered", squeeze<T>(flow_.output_shape(), SqueezeOrder::diagonal));
    if (config_.recursion > 1) flow_.factor_out(config_.recursion == 2 ? 2 * channels : channels);
  }

 private:
  const RealNvpConfig& config_;
  Flow<T>& flow_;
};

}  // namespace

template <class T>
Flow<T> real_nvp(const RealNvpConfig& config, const ParamLimit& limit) {
  check(kRealNvp, {config});
  const int64_t unit = int64_t{1} << (config.levels - 1);
  if (config.shape.h % unit || config.shape.w % unit) {
    fail<ShapeError>(kRealNvp, "expected height and width divisible by ", unit, " for ", config.levels,
                     " levels, got ", config.shape.h, " x ", config.shape.w);
  }
  if (config.shape.pixels_per_sample() < 2) {
    fail<ShapeError>(kRealNvp, "expected an image of at least 2 pixels, got ", config.shape.h, " x ",
                     config.shape.w);
  }
  const int64_t doublings = config.recursion < 4 ? config.levels - 1 : 0;
  expect_in(kRealNvp, "the width of the last scale's nets", config.base_dim << doublings, 1, kMaxWidth);
  // A net's blocks are made before they are declared.
  expect_in(kRealNvp, "the number of residual blocks", config.residual_blocks, 0, limit.tensors);
  Flow<T> flow(config.shape, Base::gaussian, limit);
  flow.set_context(config.context);
  flow.add("rescale", rescale<T>(flow.output_shape(), 0, std::ldexp(1.0, static_cast<int>(config.bits))));
  flow.add("logit", logit<T>(flow.output_shape()));
  ImageBuilder<T> builder(config, flow);
  for (int64_t s = 0; s < config.levels; ++s) builder.scale(s, s + 1 == config.levels);
  flow.finalize();
  return flow;
}

template Flow<float> real_nvp<float>(const RealNvpConfig&, const ParamLimit&);
template Flow<double> real_nvp<double>(const RealNvpConfig&, const ParamLimit&);

}  // namespace evenflow

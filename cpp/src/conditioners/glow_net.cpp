#include "conditioners/conv_stack.hpp"
#include "evenflow/error.hpp"

namespace evenflow {
namespace {

template <class T>
class GlowNet final : public ConvStack<T> {
 public:
  using ConvStack<T>::ConvStack;

  void init(ParamArena<T>& arena, Rng& rng) const override {
    for (const ConvUnit<T>& unit : this->units()) {
      if (!unit.config().actnorm) return;  // the last convolution stays zero
      T* w = unit.weight(arena);
      for (int64_t i = 0; i < unit.weight_size(); ++i) w[i] = static_cast<T>(0.05 * rng.normal());
    }
  }
};

ConvUnitConfig glow_unit(Shape in, int64_t cout, int kernel, bool hidden) {
  ConvUnitConfig config;
  config.in = in;
  config.cout = cout;
  config.kernel = kernel;
  config.edge = kernel == 3;
  config.logs = true;
  config.actnorm = hidden;
  config.relu = hidden;
  return config;
}

}  // namespace

template <class T>
std::unique_ptr<Conditioner<T>> glow_net(Shape in, int64_t out_channels, int64_t width, NetDtype dtype) {
  if (width < 1) fail<ConfigError>("glow_net", "expected width >= 1, got ", width);
  const Shape wide = in.with_channels(width);
  return std::make_unique<GlowNet<T>>(
      in, out_channels,
      std::vector<typename GlowNet<T>::Unit>{{"conv1", glow_unit(in, width, 3, true)},
                                             {"conv2", glow_unit(wide, width, 1, true)},
                                             {"conv3", glow_unit(wide, out_channels, 3, false)}},
      dtype);
}

template <class T>
std::unique_ptr<Conditioner<T>> zero_conv(Shape in, int64_t out_channels) {
  return std::make_unique<GlowNet<T>>(
      in, out_channels,
      std::vector<typename GlowNet<T>::Unit>{{"conv", glow_unit(in, out_channels, 3, false)}},
      NetDtype::same);
}

template std::unique_ptr<Conditioner<float>> glow_net<float>(Shape, int64_t, int64_t, NetDtype);
template std::unique_ptr<Conditioner<double>> glow_net<double>(Shape, int64_t, int64_t, NetDtype);
template std::unique_ptr<Conditioner<float>> zero_conv<float>(Shape, int64_t);
template std::unique_ptr<Conditioner<double>> zero_conv<double>(Shape, int64_t);

}  // namespace evenflow

#include "conditioners/conv.hpp"

namespace evenflow {
namespace {

/// hidden: with ActNorm and ReLU. The others start at zero.
ConvConfig glow_conv(const char* name, int64_t in, int64_t out, int kernel, bool hidden) {
  ConvConfig conv;
  conv.name = name;
  conv.in = in;
  conv.out = out;
  conv.kernel = kernel;
  conv.edge = kernel == 3;
  conv.logs = true;
  conv.actnorm = conv.relu = hidden;
  conv.normal = hidden ? 0.05 : 0;
  return conv;
}

}  // namespace

template <class T>
std::unique_ptr<Conditioner<T>> glow_net(Shape in, int64_t out_channels, int64_t width, NetDtype dtype) {
  if (width < 1) fail<ConfigError>("glow_net", "expected width >= 1, got ", width);
  return chain_net<T>(in,
                      {glow_conv("conv1", in.c, width, 3, true), glow_conv("conv2", width, width, 1, true),
                       glow_conv("conv3", width, out_channels, 3, false)},
                      dtype);
}

template <class T>
std::unique_ptr<Conditioner<T>> zero_conv(Shape in, int64_t out_channels) {
  return chain_net<T>(in, {glow_conv("conv", in.c, out_channels, 3, false)}, NetDtype::same);
}

template std::unique_ptr<Conditioner<float>> glow_net<float>(Shape, int64_t, int64_t, NetDtype);
template std::unique_ptr<Conditioner<double>> glow_net<double>(Shape, int64_t, int64_t, NetDtype);
template std::unique_ptr<Conditioner<float>> zero_conv<float>(Shape, int64_t);
template std::unique_ptr<Conditioner<double>> zero_conv<double>(Shape, int64_t);

}  // namespace evenflow

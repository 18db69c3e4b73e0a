#include <cmath>

#include "conditioners/conv.hpp"
#include "conditioners/steps.hpp"

namespace evenflow {

template <class T>
std::unique_ptr<Conditioner<T>> res_net(Shape in, int64_t out_channels, const ResNetConfig& config) {
  const int64_t w = config.width, normed = in.c - config.context;
  const bool bottleneck = config.bottleneck, batch_norm = config.batch_norm;
  if (config.context < 0 || normed < 1) {
    fail<ShapeError>("res_net", "expected a context of 0 ... ", in.c - 1, " of the ", in.c, " channels, got ",
                     config.context);
  }
  if (w < 1 || config.blocks < 0) {
    fail<ConfigError>("res_net", "expected width >= 1 and blocks >= 0, got ", w, " and ", config.blocks);
  }
  auto net = std::make_unique<Net<T>>(in, out_channels);

  // Each of these adds a step that reads the value x, and returns the number of its result.
  const auto norm = [&](const std::string& name, int x) {
    return net->add(std::make_unique<Norm<T>>(name, net->channels(x), 0, batch_norm, true), x);
  };
  // scaled: weight norm learns the length of each output's weights; else it is 1. Without weight norm they
  // start with the same length, since nothing else keeps a deep net's outputs from growing.
  const auto conv = [&](const std::string& name, int x, int64_t out, int kernel, bool bias, bool scaled) {
    ConvConfig c;
    c.name = name;
    c.in = net->channels(x);
    c.out = out;
    c.kernel = kernel;
    c.bias = bias;
    c.weight_norm = config.weight_norm;
    c.magnitude = scaled && config.weight_norm;
    // v ~ U(-sd, sd); g = sd sqrt(fan_in / 12) (official code).
    const double fan_in = static_cast<double>(c.in * kernel * kernel);
    c.uniform = std::sqrt(2.0 / static_cast<double>(c.in));
    c.length = scaled ? c.uniform * std::sqrt(fan_in / 12) : 1;
    return net->add(std::make_unique<Conv<T>>(c), x);
  };
  // Batch norm follows, and has a bias of its own.
  const auto hidden = [&](const std::string& name, int x, int kernel) {
    return conv(name, x, w, kernel, !batch_norm, false);
  };
  const auto linear = [&](const std::string& name, int x, int64_t out, int kernel) {
    return conv(name, x, out, kernel, true, true);
  };
  const auto sum = [&](int x, int to) { return net->add(std::make_unique<Sum<T>>(w), x, to); };

  // The context passes: it is standardised already, and may be the same in all of a batch.
  int x =
      net->add(std::make_unique<Norm<T>>("bn_in", normed, config.context, batch_norm, false), net->kInput);
  const T gain = config.checkerboard >= 0 && batch_norm ? T(2) : T(1);
  x = net->add(std::make_unique<ConcatRelu<T>>(in.c, gain, config.checkerboard), x);
  if (config.blocks == 0) {
    x = hidden("h0", x, bottleneck ? 1 : 3);
    if (bottleneck) x = hidden("h1", norm("bn_mid", x), 3);
    linear("out", norm("bn_out", x), out_channels, bottleneck ? 1 : 3);
    return net;
  }
  x = conv("h_in", x, w, 3, true, false);
  int skips = config.skip ? linear("skip_in", x, w, 1) : x;
  for (int64_t b = 0; b < config.blocks; ++b) {
    const std::string block = "block" + std::to_string(b), last = bottleneck ? "2" : "1";
    const int kernel = bottleneck ? 1 : 3;
    int y = hidden(block + ".conv0", norm(block + ".bn0", x), kernel);
    if (bottleneck) y = hidden(block + ".conv1", norm(block + ".bn1", y), 3);
    x = sum(x, linear(block + ".conv" + last, norm(block + ".bn" + last, y), w, kernel));
    skips = config.skip ? sum(linear("skip" + std::to_string(b), x, w, 1), skips) : x;
  }
  linear("out", norm("bn_out", skips), out_channels, 1);
  return net;
}

template std::unique_ptr<Conditioner<float>> res_net<float>(Shape, int64_t, const ResNetConfig&);
template std::unique_ptr<Conditioner<double>> res_net<double>(Shape, int64_t, const ResNetConfig&);

}  // namespace evenflow

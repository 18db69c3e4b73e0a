#include <cmath>

#include "conditioners/conv.hpp"
#include "conditioners/steps.hpp"

namespace evenflow {

template <class T>
std::unique_ptr<Conditioner<T>> residual_net(Shape in, int64_t out_channels,
                                             const ResidualNetConfig& config) {
  const int64_t width = config.width, context = config.context;
  const bool relu = config.activation == Activation::relu;
  if (context < 0 || context > in.c) {
    fail<ShapeError>("residual_net", "expected a context of 0 ... ", in.c, " of the ", in.c,
                     " channels, got ", context);
  }
  if (width < 1 || config.blocks < 1) {
    fail<ConfigError>("residual_net", "expected width >= 1 and blocks >= 1, got ", width, " and ",
                      config.blocks);
  }
  auto net = std::make_unique<Net<T>>(in, out_channels);

  // Weights and biases start uniform in +-bound, by default 1 / sqrt(inputs).
  const auto dense = [](const std::string& name, int64_t inputs, int64_t outputs) {
    ConvConfig layer;
    layer.name = name;
    layer.dense = true;
    layer.in = inputs;
    layer.out = outputs;
    layer.uniform = layer.uniform_bias = 1 / std::sqrt(static_cast<double>(inputs));
    return layer;
  };
  // Each of these adds a step that reads the value x, and returns the number of its result.
  const auto chain = [&](const std::vector<ConvConfig>& layers, int x) {
    return net->add(std::make_unique<ConvChain<T>>(layers, config.dtype), x);
  };
  const auto activate = [&](int x, bool in_place) {
    return net->add(std::make_unique<Activate<T>>(width, config.activation, in_place), x, in_place ? x : -1);
  };

  const int given = context ? net->input_part(in.c - context, context) : -1;
  int h = chain({dense("dense_in", in.c, width)}, net->kInput);
  for (int64_t b = 0; b < config.blocks; ++b) {
    const std::string block = "block" + std::to_string(b);
    ConvConfig first = dense(block + ".dense0", width, width),
               second = dense(block + ".dense1", width, width);
    first.relu = relu;
    second.uniform = second.uniform_bias = 1e-3;  // a block starts near the identity
    int t = activate(h, false);
    if (relu && config.dropout == 0) {
      t = chain({first, second}, t);
    } else {
      t = chain({first}, t);
      if (!relu) t = activate(t, true);
      if (config.dropout > 0) t = net->add(std::make_unique<Dropout<T>>(width, config.dropout), t);
      t = chain({second}, t);
    }
    if (context) {
      const int gate = chain({dense(block + ".gate", context, width)}, given);
      t = net->add(std::make_unique<Gate<T>>(width), gate, t);
    }
    h = net->add(std::make_unique<Sum<T>>(width), t, h);
  }
  ConvConfig out = dense("dense_out", width, out_channels);
  out.uniform = out.uniform_bias = 0;
  chain({out}, h);
  return net;
}

template std::unique_ptr<Conditioner<float>> residual_net<float>(Shape, int64_t, const ResidualNetConfig&);
template std::unique_ptr<Conditioner<double>> residual_net<double>(Shape, int64_t, const ResidualNetConfig&);

}  // namespace evenflow

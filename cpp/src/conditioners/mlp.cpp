#include <cmath>

#include "conditioners/conv.hpp"
#include "conditioners/steps.hpp"

namespace evenflow {

template <class T>
std::unique_ptr<Conditioner<T>> mlp(Shape in, int64_t out_channels, const std::vector<int64_t>& hidden,
                                    MlpInit init, NetDtype dtype, Activation activation, double dropout) {
  std::vector<ConvConfig> layers;
  int64_t width = in.c;
  for (size_t u = 0; u <= hidden.size(); ++u) {
    const bool last = u == hidden.size();
    ConvConfig layer;
    layer.name = "dense" + std::to_string(u);
    layer.dense = true;
    layer.in = width;
    layer.out = last ? out_channels : hidden[u];
    if (layer.out < 1) fail<ConfigError>("mlp", "expected widths >= 1, got ", layer.out);
    layer.relu = !last && activation == Activation::relu;
    if (init == MlpInit::nice) layer.uniform = 0.01;
    if (init == MlpInit::uniform_zero && !last) {
      layer.uniform = layer.uniform_bias = 1 / std::sqrt(static_cast<double>(width));
    }
    width = layer.out;
    layers.push_back(layer);
  }
  const bool relu = activation == Activation::relu;
  if (relu && dropout == 0) return chain_net<T>(in, layers, dtype);
  auto net = std::make_unique<Net<T>>(in, out_channels);
  int x = net->kInput;
  for (const ConvConfig& layer : layers) {
    x = net->add(std::make_unique<ConvChain<T>>(std::vector<ConvConfig>{layer}, dtype), x);
    if (layer.name == layers.back().name) break;
    if (!relu) x = net->add(std::make_unique<Activate<T>>(layer.out, activation, true), x, x);
    if (dropout > 0) x = net->add(std::make_unique<Dropout<T>>(layer.out, dropout), x);
  }
  return net;
}

template std::unique_ptr<Conditioner<float>> mlp<float>(Shape, int64_t, const std::vector<int64_t>&, MlpInit,
                                                        NetDtype, Activation, double);
template std::unique_ptr<Conditioner<double>> mlp<double>(Shape, int64_t, const std::vector<int64_t>&,
                                                          MlpInit, NetDtype, Activation, double);

}  // namespace evenflow

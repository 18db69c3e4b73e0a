#include <cmath>

#include "conditioners/conv_stack.hpp"
#include "evenflow/error.hpp"

namespace evenflow {
namespace {

template <class T>
class Mlp final : public ConvStack<T> {
 public:
  using Unit = typename ConvStack<T>::Unit;

  Mlp(Shape in, int64_t out_channels, const std::vector<Unit>& units, MlpInit init, NetDtype dtype)
      : ConvStack<T>(in, out_channels, units, dtype), init_(init) {}

  void init(ParamArena<T>& arena, Rng& rng) const override {
    for (const ConvUnit<T>& unit : this->units()) {
      if (init_ == MlpInit::nice) {
        fill(rng, 0.01, unit.weight_size(), unit.weight(arena));
      } else if (&unit != &this->units().back()) {
        const double bound = 1 / std::sqrt(static_cast<double>(unit.config().in.c));
        fill(rng, bound, unit.weight_size(), unit.weight(arena));
        fill(rng, bound, unit.config().cout, unit.bias(arena));
      }
    }
  }

 private:
  static void fill(Rng& rng, double bound, int64_t count, T* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(rng.uniform(-bound, bound));
  }

  MlpInit init_;
};

}  // namespace

template <class T>
std::unique_ptr<Conditioner<T>> mlp(Shape in, int64_t out_channels, const std::vector<int64_t>& hidden,
                                    MlpInit init, NetDtype dtype) {
  std::vector<typename Mlp<T>::Unit> units;
  int64_t width = in.c;
  for (size_t u = 0; u <= hidden.size(); ++u) {
    const bool last = u == hidden.size();
    ConvUnitConfig config;
    config.in = in.with_channels(width);
    config.cout = last ? out_channels : hidden[u];
    if (config.cout < 1) fail<ConfigError>("mlp", "expected widths >= 1, got ", config.cout);
    config.relu = !last;
    config.dense = true;
    units.push_back({"dense" + std::to_string(u), config});
    width = config.cout;
  }
  return std::make_unique<Mlp<T>>(in, out_channels, units, init, dtype);
}

template std::unique_ptr<Conditioner<float>> mlp<float>(Shape, int64_t, const std::vector<int64_t>&, MlpInit,
                                                        NetDtype);
template std::unique_ptr<Conditioner<double>> mlp<double>(Shape, int64_t, const std::vector<int64_t>&,
                                                          MlpInit, NetDtype);

}  // namespace evenflow

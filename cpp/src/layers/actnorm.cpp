#include <cmath>

#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/init_actnorm.hpp"

namespace evenflow {
namespace {

constexpr double kLogScale = 3.0;  // Glow's logscale_factor: log scale = 3 * logs

template <class T>
class ActNorm final : public ChannelScale<T> {
 public:
  explicit ActNorm(Shape in) : ChannelScale<T>("actnorm", in) {}

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    bias_ = scope.add("bias", {this->channels()}, Group::no_decay);
    logs_ = scope.add("logs", {this->channels()}, Group::no_decay);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    init_actnorm(ctx, name_, x, arena.value(bias_), arena.value(logs_));
  }

 private:
  double coefficients(const Params<T>& params, T* shift, T* scale) const override {
    const T* bias = params.value(bias_);
    const T* logs = params.value(logs_);
    double total = 0;
    for (int64_t c = 0; c < this->channels(); ++c) {
      shift[c] = bias[c];
      scale[c] = std::exp(T(kLogScale) * logs[c]);
      total += kLogScale * logs[c];
    }
    return total;
  }

  void add_gradients(const Params<T>& params, const double* sums, double dlogdet_pixels) const override {
    const int64_t n = this->channels();
    for (int64_t c = 0; c < n; ++c) {
      params.grad(bias_)[c] += static_cast<T>(sums[c]);
      params.grad(logs_)[c] += static_cast<T>(kLogScale * (sums[n + c] + dlogdet_pixels));
    }
  }

  std::string name_;
  ParamId bias_ = 0;
  ParamId logs_ = 0;
};

}  // namespace

template <class T>
void init_actnorm(Context& ctx, const std::string& name, View<const T> x, T* bias, T* logs) {
  WorkspaceScope scope(ctx);
  const int64_t channels = x.shape.c;
  T* mean = scope.take<T>(channels);
  T* var = scope.take<T>(channels);
  ctx.kernels<T>().moments(ctx, -1, x, mean, var);
  for (int64_t c = 0; c < channels; ++c) {
    if (!std::isfinite(mean[c]) || !std::isfinite(var[c])) {
      fail<NumericError>(name, "expected finite inputs at initialisation, got mean ", mean[c], ", variance ",
                         var[c], " in channel ", c);
    }
    if (!varies(mean[c], var[c])) {
      fail<NumericError>(name, "expected a varying channel at initialisation, got variance ", var[c],
                         " in channel ", c, "; add noise or drop the constant column");
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    bias[c] = -mean[c];
    logs[c] = static_cast<T>(-std::log(std::sqrt(static_cast<double>(var[c])) + 1e-6) / kLogScale);
  }
}

template void init_actnorm<float>(Context&, const std::string&, View<const float>, float*, float*);
template void init_actnorm<double>(Context&, const std::string&, View<const double>, double*, double*);

template <class T>
std::unique_ptr<Layer<T>> actnorm(Shape in) {
  return std::make_unique<ActNorm<T>>(in);
}

template std::unique_ptr<Layer<float>> actnorm<float>(Shape);
template std::unique_ptr<Layer<double>> actnorm<double>(Shape);

}  // namespace evenflow

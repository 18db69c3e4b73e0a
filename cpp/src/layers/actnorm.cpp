#include <cmath>

#include "evenflow/error.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/channel_scale.hpp"
#include "layers/init_actnorm.hpp"
#include "layers/varying.hpp"

namespace evenflow {
namespace {

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
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                      const Params<T>& params) const override {
    const ChannelCoefficients<T> c(scope, this->channels());
    ctx.kernels<T>().channel.log_scale_coefficients(ctx, this->channels(), params.value(bias_),
                                                    params.value(logs_), kLogScale, c.shift, c.scale,
                                                    c.log_scale);
    return c;
  }

  void add_gradients(Context& ctx, const Params<T>& params, const double* sums,
                     const double* dlogdet) const override {
    ctx.kernels<T>().channel.gradients(ctx, this->channels(), sums, dlogdet, this->active(), kLogScale,
                                       params.grad(bias_), params.grad(logs_));
  }

  std::string name_;
  ParamId bias_ = 0;
  ParamId logs_ = 0;
};

}  // namespace

template <class T>
void init_actnorm(Context& ctx, const std::string& name, View<const T> x, T* bias, T* logs) {
  const int64_t channels = x.shape.c;
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  T* moments = scope.take<T>(2 * channels);
  ctx.kernels<T>().channel.moments(ctx, -1, x, moments, moments + channels);
  const T* mean = host.read(moments, 2 * channels);
  const T* var = mean + channels;
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
  T* start = host.take<T>(2 * channels);
  for (int64_t c = 0; c < channels; ++c) {
    start[c] = -mean[c];
    start[channels + c] =
        static_cast<T>(-std::log(std::sqrt(static_cast<double>(var[c])) + 1e-6) / kLogScale);
  }
  const size_t bytes = static_cast<size_t>(channels) * sizeof(T);
  ctx.to_device(bias, start, bytes);
  ctx.to_device(logs, start + channels, bytes);
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

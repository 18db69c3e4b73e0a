#include "layers/channel_scale.hpp"
#include "layers/varying.hpp"

namespace evenflow {
namespace {

template <class T>
class Standardize final : public ChannelScale<T> {
 public:
  explicit Standardize(Shape in) : ChannelScale<T>("standardize", in) {}

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    mean_ = scope.add("mean", {this->channels()}, Group::fixed);
    std_ = scope.add("std", {this->channels()}, Group::fixed);
  }

  bool standardizes() const override { return true; }

  void init(ParamArena<T>& arena, Rng&) const override {
    for (int64_t c = 0; c < this->channels(); ++c) arena.value(std_)[c] = T(1);
  }

  void check_parameters(const ParamArena<T>& arena) const override {
    for (int64_t c = 0; c < this->channels(); ++c) {
      const T std = arena.value(std_)[c];
      if (std::isfinite(std) && std > 0) continue;
      fail<NumericError>(name_, "expected positive deviations, got ", std, " in column ", c);
    }
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    const int64_t n = this->channels();
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    T* moments = scope.take<T>(2 * n);
    ctx.kernels<T>().channel.moments(ctx, -1, x, moments, moments + n);
    const T* mean = host.read(moments, 2 * n);
    const T* var = mean + n;
    check_columns(name_, mean, var, n);
    T* deviation = host.take<T>(n);
    for (int64_t c = 0; c < n; ++c) deviation[c] = std::sqrt(var[c]);
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    ctx.to_device(arena.value(mean_), mean, bytes);
    ctx.to_device(arena.value(std_), deviation, bytes);
  }

 private:
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                      const Params<T>& params) const override {
    const ChannelCoefficients<T> c(scope, this->channels());
    ctx.kernels<T>().channel.standard_coefficients(ctx, this->channels(), params.value(mean_),
                                                   params.value(std_), c.shift, c.scale, c.log_scale);
    return c;
  }
  bool trained() const override { return false; }

  std::string name_;
  ParamId mean_ = 0;
  ParamId std_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> standardize(Shape in) {
  return std::make_unique<Standardize<T>>(in);
}

template std::unique_ptr<Layer<float>> standardize<float>(Shape);
template std::unique_ptr<Layer<double>> standardize<double>(Shape);

}  // namespace evenflow
